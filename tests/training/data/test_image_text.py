"""The user's images: found, cropped and paired with captions, in an order that resumes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from training.data import image_text
from training.data.image_text import Folder, Shards, crop_square, open_images
from training.errors import DataError
from training.trainer.step import Step

CPU = torch.device("cpu")


def encode_jpeg(shade: int, size: tuple[int, int] = (80, 72)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, 255 - shade, 40)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_folder(folder: Path, count: int) -> Path:
    """Write images whose red channel and caption give their number."""
    (folder / "below").mkdir(parents=True)
    for k in range(count):
        place = folder / "below" if k % 2 else folder
        (place / f"{k}.jpg").write_bytes(encode_jpeg(10 * k))
        (place / f"{k}.txt").write_text(f"image\n{k} ")
    return folder


def write_shard(path: Path, numbers: range) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for k in numbers:
            files = {f"{k}.jpg": encode_jpeg(10 * k), f"{k}.txt": f"image {k}".encode()}
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def build_step(number: int, batch: int = 4, rank: int = 0, world_size: int = 1) -> Step:
    generator = torch.Generator().manual_seed(number)
    return Step(number, batch, CPU, generator, rank, world_size)


def read_captions(source: Folder | Shards, numbers: range, batch: int = 4) -> list[list[str]]:
    return [source.pairs(build_step(number, batch))[1] for number in numbers]


def flatten(batches: list[list[str]]) -> list[str]:
    return [text for batch in batches for text in batch]


def test_a_folder_has_each_image_once_an_epoch(tmp_path: Path) -> None:
    """Images are in [-1, 1] with their own caption, and the next epoch has another order."""
    source = open_images(str(write_folder(tmp_path, 12)), 64)
    for number in range(3):
        images, captions = source.pairs(build_step(number))
        assert images.shape == (4, 3, 64, 64)
        assert float(images.min()) >= -1
        assert float(images.max()) <= 1
        for image, text in zip(images, captions, strict=True):
            red = float((image[0].mean() + 1) * 127.5)
            assert red == pytest.approx(10 * int(text.split()[1]), abs=4)
    first = flatten(read_captions(source, range(3)))
    second = flatten(read_captions(source, range(3, 6)))
    assert sorted(first) == sorted(f"image {k}" for k in range(12))
    assert sorted(second) == sorted(first)
    assert first != second


def test_a_folders_steps_depend_on_their_number_only(tmp_path: Path) -> None:
    """A resumed run continues the order, and the seed decides it."""
    write_folder(tmp_path, 10)
    whole = read_captions(Folder(tmp_path, 64, seed=5), range(7))
    assert read_captions(Folder(tmp_path, 64, seed=5), range(4, 7)) == whole[4:]
    assert read_captions(Folder(tmp_path, 64, seed=6), range(7)) != whole


def test_two_processes_share_a_folders_batch(tmp_path: Path) -> None:
    """Their captions together are those of a single process."""
    write_folder(tmp_path, 10)
    whole = read_captions(Folder(tmp_path, 64, seed=5), range(3))
    for number in range(3):
        left, right = (
            Folder(tmp_path, 64, seed=5).pairs(build_step(number, rank=rank, world_size=2))[1]
            for rank in (0, 1)
        )
        assert left + right == whole[number]


def test_shards_have_each_sample_once_a_pass(tmp_path: Path) -> None:
    """The next pass has another order, and a stream begun at the same step is the same."""
    for n in range(4):
        write_shard(tmp_path / f"{n}.tar", range(5 * n, 5 * n + 5))
    source = open_images(f"{tmp_path}/{{0..3}}.tar", 64, seed=3)
    captions = read_captions(source, range(10))
    every_sample = sorted(f"image {k}" for k in range(20))
    for start in (0, 5):
        assert sorted(flatten(captions[start : start + 5])) == every_sample
    assert captions[:5] != captions[5:]
    assert read_captions(open_images(str(tmp_path), 64, seed=3), range(10)) == captions


def test_file_names_are_not_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """webdataset would run the name of this shard as a shell command, and expand the other's."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a").write_bytes(b"")
    write_shard(folder / "a::pipe:touch PWNED #.tar", range(5))
    write_shard(folder / "{0..3}.tar", range(5, 10))
    captions = read_captions(open_images("set", 64), range(5), batch=2)
    assert len(set(flatten(captions))) == 10
    assert not (tmp_path / "PWNED").exists()
    assert not (folder / "PWNED").exists()


def test_each_process_has_its_own_shards(tmp_path: Path) -> None:
    """They do not overlap, and more processes than shards are refused."""
    for n in range(4):
        write_shard(tmp_path / f"{n}.tar", range(5 * n, 5 * n + 5))
    urls = f"{tmp_path}/{{0..3}}.tar"
    left, right = (
        {
            text
            for number in range(8)
            for text in Shards(urls, 64).pairs(build_step(number, 8, rank, 2))[1]
        }
        for rank in (0, 1)
    )
    assert left
    assert right
    assert not left & right
    with pytest.raises(DataError, match=r"4 shards for 8 processes"):
        Shards(urls, 64).pairs(build_step(0, 8, rank=7, world_size=8))


def test_only_the_shuffle_buffer_of_shards_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more is read ahead than the shuffle buffer and two batches."""
    monkeypatch.setattr(image_text, "SHUFFLE_BUFFER", 6)
    write_shard(tmp_path / "0.tar", range(25))
    source = Shards(str(tmp_path / "0.tar"), 64)
    original = source._samples
    read: list[object] = []

    def count_samples(urls: list[str]) -> Iterator[object]:
        for sample in original(urls):
            read.append(sample["__key__"])
            yield sample

    monkeypatch.setattr(source, "_samples", count_samples)
    for number in range(12):
        source.pairs(build_step(number))
        assert source.prefetch is not None
        source.prefetch[1].result()
    assert 12 * 4 <= len(read) <= 13 * 4 + 2 * 6


def test_the_central_square_is_used(tmp_path: Path) -> None:
    """A wide image loses its sides."""
    wide = Image.new("RGB", (192, 64), "red")
    wide.paste("blue", (64, 0, 128, 64))
    wide.save(tmp_path / "wide.png")
    assert crop_square(tmp_path / "wide.png", 64)[:, 32, 32].tolist() == [0, 0, 255]


def test_images_are_rotated_by_exif(tmp_path: Path) -> None:
    """Orientation 6 is a quarter turn to the right: the top becomes the right side."""
    image = Image.new("RGB", (64, 64), "red")
    image.paste("blue", (0, 0, 64, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "rotated.png", exif=exif)
    assert crop_square(tmp_path / "rotated.png", 64)[:, 32, 60].tolist() == [0, 0, 255]


def test_transparency_becomes_white(tmp_path: Path) -> None:
    """A transparent image is white."""
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert crop_square(tmp_path / "clear.png", 64)[:, 1, 1].tolist() == [255, 255, 255]


def test_a_few_bad_images_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Broken, small and uncaptioned ones are reported; batches stay full and reproducible."""
    write_folder(tmp_path, 12)
    (tmp_path / "0.jpg").write_bytes(encode_jpeg(0)[:200])
    (tmp_path / "2.jpg").write_bytes(encode_jpeg(20, (40, 90)))
    (tmp_path / "4.txt").unlink()
    captions = read_captions(Folder(tmp_path, 64), range(9))
    assert all(len(batch) == 4 for batch in captions)
    assert read_captions(Folder(tmp_path, 64), range(5, 9)) == captions[5:]
    output = capsys.readouterr().out
    assert "0.jpg is skipped: it cannot be read" in output
    assert "has 40 x 90 pixels, and at least 64 x 64 are needed" in output
    assert "4.jpg is skipped: it has no caption" in output


def test_many_broken_images_end_the_run(tmp_path: Path) -> None:
    """The message counts them and gives examples."""
    write_folder(tmp_path, 12)
    for k in range(0, 12, 2):
        (tmp_path / f"{k}.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"4 of the \d+ images read so far .* cannot be read"):
        read_captions(Folder(tmp_path, 64), range(9))


def test_many_missing_captions_end_the_run(tmp_path: Path) -> None:
    """The message says where to write a caption."""
    write_folder(tmp_path, 12)
    for k in range(0, 12, 2):
        (tmp_path / f"{k}.txt").unlink()
    with pytest.raises(DataError, match=r"6 of the 12 .* no caption.* write it into 0\.txt"):
        Folder(tmp_path, 64)


def test_data_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    """Each message names the fault: no images, missing or broken shards, neither of both."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no images"):
        open_images(str(tmp_path / "empty"), 64)
    with pytest.raises(DataError, match=r"1 of the 1 shards"):
        open_images(str(tmp_path / "9.tar"), 64)
    with pytest.raises(DataError, match="neither a folder nor"):
        open_images("somewhere", 64)
    (tmp_path / "bad.tar").write_bytes(b"x" * 2000)
    with pytest.raises(DataError, match="cannot be read"):
        open_images(str(tmp_path / "bad.tar"), 64).pairs(build_step(0))
