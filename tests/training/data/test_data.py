"""Images of one's own: found, cut, paired with their captions, in an order that resumes; and what is wrong with them is said."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from training.data import image_text
from training.data.crops import ImageCrops
from training.data.image_text import Folder, Shards, open_images, square
from training.data.sources import Blend, World
from training.errors import DataError
from training.trainer.trainer import Step, step_generator

CPU = torch.device("cpu")


def jpeg(shade: int, size: tuple[int, int] = (80, 72)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, 255 - shade, 40)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write(folder: Path, count: int) -> Path:
    """Images whose red says which they are, as their captions do."""
    (folder / "below").mkdir(parents=True)
    for k in range(count):
        place = folder / "below" if k % 2 else folder
        (place / f"{k}.jpg").write_bytes(jpeg(10 * k))
        (place / f"{k}.txt").write_text(f"image\n{k} ")
    return folder


def shard(path: Path, numbers: range) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for k in numbers:
            for name, content in ((f"{k}.jpg", jpeg(10 * k)), (f"{k}.txt", f"image {k}".encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def step(number: int, batch: int = 4, rank: int = 0, ranks: int = 1) -> Step:
    return Step(number, batch, CPU, torch.Generator().manual_seed(number), rank, ranks)


def captions(source: Folder | Shards, numbers: range, batch: int = 4) -> list[list[str]]:
    return [source.pairs(step(number, batch))[1] for number in numbers]


def test_a_folder_gives_each_image_with_its_caption_once_an_epoch(tmp_path: Path) -> None:
    """In [-1, 1], in another order the next time."""
    source = open_images(str(write(tmp_path, 12)), 64)
    for number in range(3):
        images, said = source.pairs(step(number))
        assert images.shape == (4, 3, 64, 64)
        assert float(images.min()) >= -1
        assert float(images.max()) <= 1
        for image, text in zip(images, said, strict=True):
            assert float((image[0].mean() + 1) * 127.5) == pytest.approx(
                10 * int(text.split()[1]), abs=4
            )
    first, second = (
        [text for batch in captions(source, numbers) for text in batch]
        for numbers in (range(3), range(3, 6))
    )
    assert sorted(first) == sorted(second) == sorted(f"image {k}" for k in range(12))
    assert first != second


def test_a_folder_goes_on_where_it_was_and_is_shared_without_overlap(tmp_path: Path) -> None:
    """Steps are functions of their number, whoever asks and whenever; two processes have one's batch between them."""
    write(tmp_path, 10)
    whole = Folder(tmp_path, 64, seed=5)
    again = Folder(tmp_path, 64, seed=5)
    said = captions(whole, range(7))
    assert captions(again, range(4, 7)) == said[4:]
    halves = [
        [Folder(tmp_path, 64, seed=5).pairs(step(number, rank=rank, ranks=2))[1] for rank in (0, 1)]
        for number in range(3)
    ]
    assert [left + right for left, right in halves] == said[:3]
    assert captions(Folder(tmp_path, 64, seed=6), range(7)) != said


def test_shards_are_streamed_and_each_process_has_its_own(tmp_path: Path) -> None:
    """Every sample comes once a pass, and begun at the same step the stream is the same."""
    for n in range(4):
        shard(tmp_path / f"{n}.tar", range(5 * n, 5 * n + 5))
    source = open_images(f"{tmp_path}/{{0..3}}.tar", 64, seed=3)
    said = captions(source, range(10))
    passes = [sorted(text for batch in said[k : k + 5] for text in batch) for k in (0, 5)]
    assert passes[0] == passes[1] == sorted(f"image {k}" for k in range(20))
    assert said[:5] != said[5:]
    assert captions(open_images(str(tmp_path), 64, seed=3), range(10)) == said
    own = [
        {
            text
            for n in range(8)
            for text in Shards(f"{tmp_path}/{{0..3}}.tar", 64).pairs(step(n, 8, rank, 2))[1]
        }
        for rank in (0, 1)
    ]
    assert own[0]
    assert own[1]
    assert not own[0] & own[1]
    with pytest.raises(DataError, match=r"4 shards for 8 processes"):
        Shards(f"{tmp_path}/{{0..3}}.tar", 64).pairs(step(0, 8, rank=7, ranks=8))


def test_of_shards_only_the_buffer_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read beyond what was given stays within the shuffle buffer and two batches."""
    monkeypatch.setattr(image_text, "SHUFFLED", 6)
    shard(tmp_path / "0.tar", range(25))
    source = Shards(str(tmp_path / "0.tar"), 64)
    read = 0
    original = source._samples

    def counted(*given: object) -> object:
        nonlocal read
        for sample in original(*given):  # type: ignore[arg-type]
            read += 1
            yield sample

    monkeypatch.setattr(source, "_samples", counted)
    for number in range(12):
        source.pairs(step(number))
        assert source.coming is not None
        source.coming[1].result()
    assert 12 * 4 <= read <= 13 * 4 + 2 * 6


def test_the_middle_square_is_taken_upright_and_on_white(tmp_path: Path) -> None:
    """From a wide image, one turned by its EXIF, and one that is transparent."""
    wide = Image.new("RGB", (192, 64), "red")
    wide.paste("blue", (64, 0, 128, 64))
    wide.save(tmp_path / "wide.png")
    assert square(tmp_path / "wide.png", 64)[:, 32, 32].tolist() == [0, 0, 255]
    turned = Image.new("RGB", (64, 64), "red")
    turned.paste("blue", (0, 0, 64, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right: above becomes right
    turned.save(tmp_path / "turned.png", exif=exif)
    assert square(tmp_path / "turned.png", 64)[:, 32, 60].tolist() == [0, 0, 255]
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert square(tmp_path / "clear.png", 64)[:, 1, 1].tolist() == [255, 255, 255]


def test_a_few_bad_images_are_left_out_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken, too small, without words: the batch is full all the same, and the same again."""
    write(tmp_path, 12)
    (tmp_path / "0.jpg").write_bytes(jpeg(0)[:200])
    (tmp_path / "2.jpg").write_bytes(jpeg(20, (40, 90)))
    (tmp_path / "4.txt").unlink()
    source = Folder(tmp_path, 64)
    said = captions(source, range(9))
    assert all(len(batch) == 4 for batch in said)
    assert captions(Folder(tmp_path, 64), range(5, 9)) == said[5:]
    told = capsys.readouterr().out
    assert "0.jpg is left out: it cannot be read" in told
    assert "has 40 x 90 pixels, and 64 x 64 are needed" in told
    assert "4.jpg is left out: it has no caption" in told


def test_many_bad_images_end_the_run(tmp_path: Path) -> None:
    """So do captions that are missing, a folder without images, and shards that are not there or none; the message says what would do."""
    write(tmp_path / "broken", 12)
    for k in range(0, 12, 2):
        (tmp_path / "broken" / f"{k}.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"4 of the \d+ images met so far .* cannot be read"):
        captions(Folder(tmp_path / "broken", 64), range(9))
    write(tmp_path / "mute", 12)
    for k in range(0, 12, 2):
        (tmp_path / "mute" / f"{k}.txt").unlink()
    with pytest.raises(
        DataError, match=r"6 of the 12 images .* have no caption.* write it into 0\.txt"
    ):
        Folder(tmp_path / "mute", 64)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="has no images"):
        open_images(str(tmp_path / "none"), 64)
    with pytest.raises(DataError, match=r"1 of the 1 shards"):
        open_images(str(tmp_path / "9.tar"), 64)
    with pytest.raises(DataError, match="neither a folder nor"):
        open_images("somewhere", 64)
    (tmp_path / "bad.tar").write_bytes(b"x" * 2000)
    with pytest.raises(DataError, match="cannot be read"):
        open_images(str(tmp_path / "bad.tar"), 64).pairs(step(0))


def test_upsamplers_learn_from_windows_of_a_quarter(tmp_path: Path) -> None:
    """Of each image at full size, the same window for the same step."""
    tmp_path.joinpath("one.txt").write_text("stripes")
    Image.effect_noise((256, 256), 60).convert("RGB").save(tmp_path / "one.png")
    crops = ImageCrops(Folder(tmp_path, 256), 256)
    first = crops.pairs(step(1))[0]
    again = crops.pairs(step(1))[0]
    assert first.shape == (4, 3, 64, 64)
    assert torch.equal(first, again)
    assert not torch.equal(first[0], first[1])


def test_of_a_blend_each_source_has_its_part_of_every_batch() -> None:
    """Half of one mix and then half of the other, each with its own captions, and as its own world would draw them."""
    worlds = World("objects"), World("rest")
    step = Step(3, 8, torch.device("cpu"), step_generator(0, 3))
    image_text, texts = Blend(worlds).pairs(step)
    generator = step_generator(0, 3)
    halves = [world.pairs(Step(3, 4, torch.device("cpu"), generator)) for world in worlds]
    assert image_text.equal(torch.cat([half for half, _ in halves]))
    assert texts == [*halves[0][1], *halves[1][1]]
    assert not image_text[:4].equal(image_text[4:])
    ((first, _),) = Blend(worlds).first(2, torch.device("cpu"))
    assert first.equal(next(iter(worlds[0].first(2, torch.device("cpu"))))[0])
