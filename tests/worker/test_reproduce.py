"""Images drawn again from what they say of themselves: the same ones, or a plain word why not."""

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

from contracts.images import image_digest, normalize_image
from contracts.operations import OPERATIONS
from contracts.provenance import read_provenance
from models import UnCLIP, operations
from models.checkpoints.checkpoint import digest as checkpoint_digest
from service.api.images import formed
from worker.jobs.images import png, tensor
from worker.jobs.operations import begin
from worker.jobs.provenance import provenance
from worker.reproduce import run

SMALL = {"size": 64, "decoder_num_inference_steps": 4}
ASKED: list[tuple[str, dict[str, Any], list[str], int]] = [
    (
        "generate",
        {"prompt": "a red cube", "n": 3, "prior_num_candidates": 4, "negative_prompt": "grass"},
        [],
        2,
    ),
    ("generate", {"prompt": "a red cube", "prior": "autoregressive"}, [], 0),
    (
        "generate",
        {"mix": [{"prompt": "a cone"}, {"image": "mix_1", "weight": 0.5}], "n": 2},
        ["mix_1"],
        1,
    ),
    ("generate", {"z_i": [0.5] * 16}, [], 0),
    ("variations", {"n": 2, "eta": 1.0}, ["image"], 1),
    ("interpolate", {"prompt_b": "a cone", "frames": 3}, ["image_a"], 1),
    ("text-diff", {"prompt_to": "a cone", "frames": 3, "theta_max": 0.4}, ["image"], 2),
    ("edit", {"prompt": "a cone", "size": 256}, ["image", "mask"], 0),
    ("probe", {"labels": ["a cone"], "components": [1, 3]}, ["image"], 1),
]


@pytest.fixture(scope="module")
def pipeline(tiny_checkpoint: Path) -> UnCLIP:
    return UnCLIP.load(tiny_checkpoint)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a photograph, wide and on its side, and an image with a hole, as people send them."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.effect_noise((120, 80), 90).convert("RGB").save(tmp_path / "photo.jpg", exif=exif)
    holed = Image.effect_noise((64, 64), 90).convert("RGBA")
    holed.paste((0, 0, 0, 0), (16, 16, 48, 48))
    holed.save(tmp_path / "holed.png")
    return tmp_path


def sent(files: Path, names: list[str]) -> tuple[dict[str, bytes], list[Path]]:
    """Input images as the service would queue them, and the files that they came in: the hole of an edit's image is its mask."""
    path = files / ("holed.png" if "mask" in names else "photo.jpg")
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        return {
            name: normalize_image(upright, "mask" if name == "mask" else "image") for name in names
        }, [path] if names else []


def drawn(
    pipeline: UnCLIP,
    operation: str,
    request: dict[str, Any],
    inputs: dict[str, bytes],
    index: int,
    delivered: int | None = None,
) -> bytes:
    """One of a job's images, as a worker draws it: the whole job, moved together. `delivered`: as which of them."""
    fields = OPERATIONS[operation].model_validate({"seed": 5, **SMALL, **request})
    parameters = pipeline.resolve(operation, **fields.given_parameters())
    images = {name: tensor(content) for name, content in inputs.items()}
    row = operations.run(pipeline, begin(pipeline, operation, fields, images, parameters)).rows[
        index
    ]
    digests = {name: image_digest(content) for name, content in inputs.items()}
    assert row.image is not None
    at = index if delivered is None else delivered
    return png(
        row.image,
        provenance(pipeline, operation, fields.model_dump(), row, at, parameters, digests),
    )


@pytest.fixture
def redraw(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """The command on an image's bytes: its exit status. The new image is again.png in the test's folder."""
    monkeypatch.setenv("UNCLIP_DEVICE", "cpu")
    monkeypatch.setenv("UNCLIP_CHECKPOINT", str(tiny_checkpoint))

    def call(content: bytes, *images: Path) -> int:
        (tmp_path / "out.png").write_bytes(content)
        return run(
            Namespace(png=tmp_path / "out.png", output=tmp_path / "again.png", inputs=list(images))
        )

    return call


@pytest.mark.parametrize(("operation", "request_", "names", "index"), ASKED)
def test_every_operations_image_is_drawn_again(
    pipeline: UnCLIP,
    redraw: Any,
    files: Path,
    capsys: Any,
    operation: str,
    request_: dict[str, Any],
    names: list[str],
    index: int,
) -> None:
    """From its own text chunk and the files as they were sent, alone instead of beside the job's others, to rounding."""
    inputs, paths = sent(files, names)
    content = drawn(pipeline, operation, request_, inputs, index)
    assert redraw(content, *paths) == 0, capsys.readouterr().err
    told = capsys.readouterr()
    assert re.fullmatch(
        r"the same image: it differs by [012] of 255 at most, by \d\.\d{3} in the mean\n", told.out
    )
    assert not told.err
    assert read_provenance((files / "again.png").read_bytes()) == read_provenance(content)


def test_the_weights_files_have_the_digest_that_sha256sum_would_give(
    tiny_checkpoint: Path, pipeline: UnCLIP, tmp_path: Path
) -> None:
    """Whatever the folder is called; the card does not count, a weight does."""
    copy = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    (copy / "CARD.md").write_text("another")
    assert checkpoint_digest(copy) == pipeline.digest
    assert re.fullmatch("[0-9a-f]{64}", pipeline.digest)
    weights = bytearray((copy / "pca.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "pca.safetensors").write_bytes(weights)
    assert checkpoint_digest(copy) != pipeline.digest


def test_another_checkpoint_of_the_same_name_is_named_and_the_images_differ(
    pipeline: UnCLIP,
    redraw: Any,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    """By digest; the image is drawn all the same, and the exit status tells."""
    from safetensors.torch import load_file, save_file

    other = shutil.copytree(tiny_checkpoint, tmp_path / "other")
    changed = {
        key: value + 0.1 if value.is_floating_point() else value
        for key, value in load_file(other / "decoder.safetensors").items()
    }
    save_file(changed, other / "decoder.safetensors")
    monkeypatch.setenv("UNCLIP_CHECKPOINT", str(other))
    assert redraw(drawn(pipeline, "generate", {"prompt": "a red cube"}, {}, 0)) == 1
    told = capsys.readouterr()
    assert "ANOTHER CHECKPOINT" in told.err
    assert pipeline.digest in told.err
    assert checkpoint_digest(other) in told.err
    assert told.out.startswith("another image: it differs by")
    assert read_provenance(
        (tmp_path / "again.png").read_bytes()
    ).checkpoint_digest == checkpoint_digest(other)


def test_what_cannot_be_drawn_again_is_told(
    pipeline: UnCLIP, redraw: Any, files: Path, capsys: Any
) -> None:
    """Without a chunk, without its input images, with others, and a chunk that contradicts itself."""
    inputs, (photo,) = sent(files, ["image"])
    varied = drawn(pipeline, "variations", {}, inputs, 0)
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
        (varied, (), "give image, each by --input FILE"),
        (varied, (files / "holed.png",), "holed.png is none of the images"),
        (forgery.getvalue(), (photo,), "seed"),
    ):
        assert redraw(content, *images) == 2
        assert reason in capsys.readouterr().err
    assert not (files / "again.png").exists()


def test_the_prior_tells_which_candidate_it_kept(pipeline: UnCLIP) -> None:
    """One of those asked for: the one whose z_i says most of the caption."""
    request = {"prompt": "a cone", "prior_num_candidates": 8, "n": 4}
    kept = {
        read_provenance(drawn(pipeline, "generate", request, {}, index)).prior_candidate
        for index in range(4)
    }
    assert len(kept) > 1
    assert all(each in range(8) for each in kept)
    assert (
        read_provenance(
            drawn(pipeline, "generate", {"prompt": "a cone", "prior": "autoregressive"}, {}, 0)
        ).prior_candidate
        is None
    )


def test_a_reduced_image_is_compared_reduced(pipeline: UnCLIP, redraw: Any) -> None:
    """As the service gives it out where it is asked for fewer pixels."""
    assert redraw(formed(drawn(pipeline, "generate", {"prompt": "a red cube"}, {}, 0), 32)) == 0


def test_an_image_knows_its_place_where_others_were_left_out(pipeline: UnCLIP, redraw: Any) -> None:
    """The third of a mix, delivered as the first: the mix's caption is drawn from the job's first seed all the same."""
    request = {"mix": [{"prompt": "a cone"}, {"prompt": "a cube", "weight": 0.5}], "n": 3}
    content = drawn(pipeline, "generate", request, {}, 2, delivered=0)
    assert (read_provenance(content).index, read_provenance(content).seed) == (2, 7)
    assert redraw(content) == 0


def test_a_changed_pixel_is_found(
    pipeline: UnCLIP, redraw: Any, tmp_path: Path, capsys: Any
) -> None:
    """The chunk is as it was, the image is not."""
    content = drawn(pipeline, "generate", {"prompt": "a red cube"}, {}, 0)
    pixels = tensor(content)
    pixels[:, 3, 3] = torch.where(pixels[:, 3, 3] > 0, -1.0, 1.0)
    assert redraw(png(pixels, read_provenance(content).model_dump())) == 1
    assert "another image" in capsys.readouterr().out
