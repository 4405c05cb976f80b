"""Pictures drawn again from what they say of themselves: the same ones, or a plain word why not."""

from __future__ import annotations

import io
import json
import re
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from contracts.images import digest, normalized
from contracts.operations import OPERATIONS
from contracts.provenance import read
from models import UnCLIP, operations
from models.checkpoints.checkpoint import digest as checkpoint_digest
from service.api.images import formed
from worker.jobs.images import png, tensor
from worker.jobs.operations import begin
from worker.jobs.provenance import provenance
from worker.reproduce import run

SMALL = {"size": 64, "decoder_num_inference_steps": 4}
ASKED: list[tuple[str, dict[str, Any], list[str], int]] = [
    ("generate", {"prompt": "a red cube", "n": 3, "prior_num_candidates": 4, "negative_prompt": "grass"}, [], 2),
    ("generate", {"prompt": "a red cube", "prior": "autoregressive"}, [], 0),
    ("generate", {"mix": [{"prompt": "a cone"}, {"image": "mix_1", "weight": 0.5}], "n": 2}, ["mix_1"], 1),
    ("generate", {"z_i": [0.5] * 16}, [], 0),
    ("variations", {"n": 2, "eta": 1.0}, ["image"], 1),
    ("interpolate", {"prompt_b": "a cone", "frames": 3}, ["image_a"], 1),
    ("text-diff", {"prompt_to": "a cone", "frames": 3, "theta_max": 0.4}, ["image"], 2),
    ("edit", {"prompt": "a cone", "size": 256}, ["image", "mask"], 0),
    ("probe", {"labels": ["a cone"], "components": [1, 3]}, ["image"], 1),
]


@pytest.fixture(scope="module")
def stack(tiny_checkpoint: Path) -> UnCLIP:
    return UnCLIP.load(tiny_checkpoint)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a photograph, wide and on its side, and a picture with a hole, as people send them."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.effect_noise((120, 80), 90).convert("RGB").save(tmp_path / "photo.jpg", exif=exif)
    holed = Image.effect_noise((64, 64), 90).convert("RGBA")
    holed.paste((0, 0, 0, 0), (16, 16, 48, 48))
    holed.save(tmp_path / "holed.png")
    return tmp_path


def sent(files: Path, names: list[str]) -> tuple[dict[str, bytes], list[Path]]:
    """Input pictures as the service would queue them, and the files that they came in: the hole of an edit's picture is its mask."""
    path = files / ("holed.png" if "mask" in names else "photo.jpg")
    with Image.open(path) as picture:
        upright = ImageOps.exif_transpose(picture)
        return {name: normalized(upright, "mask" if name == "mask" else "picture") for name in names}, [path] if names else []


def drawn(
    stack: UnCLIP, operation: str, request: dict[str, Any], inputs: dict[str, bytes], index: int, delivered: int | None = None
) -> bytes:
    """One of a job's pictures, as a worker draws it: the whole job, moved together. `delivered`: as which of them."""
    fields = OPERATIONS[operation].model_validate({"seed": 5, **SMALL, **request})
    parameters = stack.resolve(operation, **fields.given_parameters())
    pictures = {name: tensor(content) for name, content in inputs.items()}
    row = operations.run(stack, begin(stack, operation, fields, pictures, parameters)).rows[index]
    digests = {name: digest(content) for name, content in inputs.items()}
    assert row.image is not None
    at = index if delivered is None else delivered
    return png(row.image, provenance(stack, operation, fields.model_dump(), row, at, parameters, digests))


@pytest.fixture
def redraw(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command on a picture's bytes: its exit status. The new picture is again.png in the test's folder."""
    monkeypatch.setenv("UNCLIP_DEVICE", "cpu")
    monkeypatch.setenv("UNCLIP_CHECKPOINT", str(tiny_checkpoint))

    def call(content: bytes, *images: Path) -> int:
        (tmp_path / "out.png").write_bytes(content)
        return run(Namespace(picture=tmp_path / "out.png", output=tmp_path / "again.png", image=list(images)))

    return call


@pytest.mark.parametrize(("operation", "request_", "names", "index"), ASKED)
def test_every_operations_picture_is_drawn_again(
    stack: UnCLIP, redraw: Any, files: Path, capsys: Any, operation: str, request_: dict[str, Any], names: list[str], index: int
) -> None:
    """From its own text chunk and the files as they were sent, alone instead of beside the job's others, to rounding."""
    inputs, paths = sent(files, names)
    content = drawn(stack, operation, request_, inputs, index)
    assert redraw(content, *paths) == 0, capsys.readouterr().err
    told = capsys.readouterr()
    assert re.fullmatch(r"the same picture: it differs by [012] of 255 at most, by \d\.\d{3} in the mean\n", told.out) and not told.err
    assert read((files / "again.png").read_bytes()) == read(content)


def test_the_weights_files_have_the_digest_that_sha256sum_would_give(tiny_checkpoint: Path, stack: UnCLIP, tmp_path: Path) -> None:
    """Whatever the folder is called; the card does not count, a weight does."""
    copy = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    (copy / "CARD.md").write_text("another")
    assert checkpoint_digest(copy) == stack.digest and re.fullmatch("[0-9a-f]{64}", stack.digest)
    weights = bytearray((copy / "pca.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "pca.safetensors").write_bytes(weights)
    assert checkpoint_digest(copy) != stack.digest


def test_another_checkpoint_of_the_same_name_is_named_and_the_pictures_differ(
    stack: UnCLIP, redraw: Any, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """By digest; the picture is drawn all the same, and the exit status tells."""
    from safetensors.torch import load_file, save_file

    other = shutil.copytree(tiny_checkpoint, tmp_path / "other")
    changed = {key: value + 0.1 if value.is_floating_point() else value for key, value in load_file(other / "decoder.safetensors").items()}
    save_file(changed, other / "decoder.safetensors")
    monkeypatch.setenv("UNCLIP_CHECKPOINT", str(other))
    assert redraw(drawn(stack, "generate", {"prompt": "a red cube"}, {}, 0)) == 1
    told = capsys.readouterr()
    assert "ANOTHER CHECKPOINT" in told.err and stack.digest in told.err and checkpoint_digest(other) in told.err
    assert told.out.startswith("another picture: it differs by")
    assert read((tmp_path / "again.png").read_bytes()).checkpoint_digest == checkpoint_digest(other)


def test_what_cannot_be_drawn_again_is_told(stack: UnCLIP, redraw: Any, files: Path, capsys: Any) -> None:
    """Without a chunk, without its input pictures, with others, and a chunk that contradicts itself."""
    inputs, (photo,) = sent(files, ["image"])
    varied = drawn(stack, "variations", {}, inputs, 0)
    plain = io.BytesIO()
    Image.new("RGB", (4, 4)).save(plain, "PNG")
    forged = json.loads(Image.open(io.BytesIO(varied)).text["unclip"]) | {"index": 9}  # type: ignore[attr-defined]
    info = PngInfo()
    info.add_text("unclip", json.dumps(forged))
    forgery = io.BytesIO()
    Image.new("RGB", (64, 64)).save(forgery, "PNG", pnginfo=info)
    for content, images, reason in (
        (b"hello", (), "it is no PNG"),
        (plain.getvalue(), (), "no text chunk 'unclip'"),
        (varied, (), "give image, each by --image FILE"),
        (varied, (files / "holed.png",), "holed.png is none of the pictures"),
        (forgery.getvalue(), (photo,), "seed"),
    ):
        assert redraw(content, *images) == 2
        assert reason in capsys.readouterr().err
    assert not (files / "again.png").exists()


def test_the_prior_tells_which_candidate_it_kept(stack: UnCLIP) -> None:
    """One of those asked for: the one whose z_i says most of the caption."""
    request = {"prompt": "a cone", "prior_num_candidates": 8, "n": 4}
    kept = {read(drawn(stack, "generate", request, {}, index)).prior_candidate for index in range(4)}
    assert len(kept) > 1 and all(each in range(8) for each in kept)
    assert read(drawn(stack, "generate", {"prompt": "a cone", "prior": "autoregressive"}, {}, 0)).prior_candidate is None


def test_a_reduced_picture_is_compared_reduced(stack: UnCLIP, redraw: Any) -> None:
    """As the service gives it out where it is asked for fewer pixels."""
    assert redraw(formed(drawn(stack, "generate", {"prompt": "a red cube"}, {}, 0), 32)) == 0


def test_a_picture_knows_its_place_where_others_were_left_out(stack: UnCLIP, redraw: Any) -> None:
    """The third of a mix, delivered as the first: the mix's caption is drawn from the job's first seed all the same."""
    request = {"mix": [{"prompt": "a cone"}, {"prompt": "a cube", "weight": 0.5}], "n": 3}
    content = drawn(stack, "generate", request, {}, 2, delivered=0)
    assert (read(content).index, read(content).seed) == (2, 7) and redraw(content) == 0


def test_a_changed_pixel_is_found(stack: UnCLIP, redraw: Any, tmp_path: Path, capsys: Any) -> None:
    """The chunk is as it was, the picture is not."""
    content = drawn(stack, "generate", {"prompt": "a red cube"}, {}, 0)
    pixels = tensor(content)
    pixels[:, 3, 3] = torch.where(pixels[:, 3, 3] > 0, -1.0, 1.0)
    assert redraw(png(pixels, read(content).model_dump())) == 1
    assert "another picture" in capsys.readouterr().out
