"""The command `reproduce`: the same image again, or a reason why not."""

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

from contracts.fields import IMAGE_FIELDS
from contracts.images import image_digest, normalize_image
from contracts.operations import OPERATIONS
from contracts.provenance import read_provenance
from models import UnCLIP, operations
from models.checkpoints.checkpoint import digest as checkpoint_digest
from service.jobs.images import convert_image
from worker.jobs.images import decode_png, encode_png
from worker.jobs.operations import start_operation
from worker.jobs.provenance import describe_image
from worker.reproduce import run

SMALL = {"size": 64, "decoder_num_inference_steps": 4}
# Operation, request, names of input images, index of the image.
REQUESTS: list[tuple[str, dict[str, Any], list[str], int]] = [
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
Reproduce = Callable[..., int]


@pytest.fixture(scope="module")
def pipeline(tiny_checkpoint: Path) -> UnCLIP:
    return UnCLIP.load(tiny_checkpoint)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a wide photograph turned by EXIF, and an image with a transparent hole."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.effect_noise((120, 80), 90).convert("RGB").save(tmp_path / "photo.jpg", exif=exif)
    with_hole = Image.effect_noise((64, 64), 90).convert("RGBA")
    with_hole.paste((0, 0, 0, 0), (16, 16, 48, 48))
    with_hole.save(tmp_path / "hole.png")
    return tmp_path


def normalize_inputs(files: Path, names: list[str]) -> tuple[dict[str, bytes], list[Path]]:
    """Input images as the service stores them, and their files; the hole of an edit is its mask."""
    path = files / ("hole.png" if "mask" in names else "photo.jpg")
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
    inputs = {
        name: normalize_image(upright, "mask" if name == "mask" else "image") for name in names
    }
    return inputs, [path] if names else []


def generate_png(
    pipeline: UnCLIP,
    operation: str,
    request: dict[str, Any],
    inputs: dict[str, bytes],
    index: int = 0,
    delivered_index: int | None = None,
) -> bytes:
    """One image of a job that generates all of them together, as a worker encodes it.

    `delivered_index`: its position if the content filter dropped images before it.
    """
    names = {name: name for name in inputs if name in IMAGE_FIELDS}
    fields = OPERATIONS[operation].model_validate({"seed": 5, **SMALL, **request, **names})
    parameters = pipeline.resolve(operation, **fields.requested_parameters())
    images = {name: decode_png(content) for name, content in inputs.items()}
    started = start_operation(pipeline, operation, fields, images, parameters)
    row = operations.run(pipeline, started).rows[index]
    assert row.image is not None
    provenance = describe_image(
        pipeline,
        operation,
        fields.to_dict(),
        row,
        index if delivered_index is None else delivered_index,
        parameters,
        {name: image_digest(content) for name, content in inputs.items()},
    )
    return encode_png(row.image, provenance.model_dump())


@pytest.fixture
def reproduce(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reproduce:
    """Run the command on a PNG and return its exit status; the new image is again.png."""
    monkeypatch.setenv("UNCLIP_DEVICE", "cpu")
    monkeypatch.setenv("UNCLIP_CHECKPOINT", str(tiny_checkpoint))

    def call(png: bytes, *inputs: Path) -> int:
        path = tmp_path / "original.png"
        path.write_bytes(png)
        return run(Namespace(png=path, output=tmp_path / "again.png", inputs=list(inputs)))

    return call


@pytest.mark.parametrize(("operation", "request_", "names", "index"), REQUESTS)
def test_the_image_of_every_operation_is_reproduced(
    pipeline: UnCLIP,
    reproduce: Reproduce,
    files: Path,
    capsys: Any,
    operation: str,
    request_: dict[str, Any],
    names: list[str],
    index: int,
) -> None:
    """From its text chunk and the files that were sent, alone, to rounding."""
    inputs, paths = normalize_inputs(files, names)
    png = generate_png(pipeline, operation, request_, inputs, index)
    assert reproduce(png, *paths) == 0, capsys.readouterr().err
    printed = capsys.readouterr()
    verdict = r"same image: maximum difference [012] of 255, mean \d\.\d{3}\n"
    assert re.fullmatch(verdict, printed.out)
    assert not printed.err
    assert read_provenance((files / "again.png").read_bytes()) == read_provenance(png)


def test_the_digest_of_a_checkpoint_is_of_its_contents(
    tiny_checkpoint: Path, pipeline: UnCLIP, tmp_path: Path
) -> None:
    """The folder's name and the card do not count, a weight does."""
    copy = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    (copy / "CARD.md").write_text("another")
    assert checkpoint_digest(copy) == pipeline.digest
    assert re.fullmatch("[0-9a-f]{64}", pipeline.digest)
    weights = bytearray((copy / "pca.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "pca.safetensors").write_bytes(weights)
    assert checkpoint_digest(copy) != pipeline.digest


def test_a_different_checkpoint_is_reported(
    pipeline: UnCLIP,
    reproduce: Reproduce,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    """By its digest, even with the same name; the image is generated and compared all the same."""
    from safetensors.torch import load_file, save_file

    other = shutil.copytree(tiny_checkpoint, tmp_path / "other")
    changed = {
        key: value + 0.1 if value.is_floating_point() else value
        for key, value in load_file(other / "decoder.safetensors").items()
    }
    save_file(changed, other / "decoder.safetensors")
    monkeypatch.setenv("UNCLIP_CHECKPOINT", str(other))
    assert reproduce(generate_png(pipeline, "generate", {"prompt": "a red cube"}, {})) == 1
    printed = capsys.readouterr()
    assert "DIFFERENT CHECKPOINT" in printed.err
    assert pipeline.digest in printed.err
    assert checkpoint_digest(other) in printed.err
    assert printed.out.startswith("different image: maximum difference")
    again = read_provenance((tmp_path / "again.png").read_bytes())
    assert again.checkpoint_digest == checkpoint_digest(other)


def test_an_image_that_cannot_be_reproduced_has_a_reason(
    pipeline: UnCLIP, reproduce: Reproduce, files: Path, capsys: Any
) -> None:
    """No PNG, no provenance, input images that are missing or different, a forged index."""
    inputs, (photo,) = normalize_inputs(files, ["image"])
    variation = generate_png(pipeline, "variations", {}, inputs)
    plain = io.BytesIO()
    Image.new("RGB", (4, 4)).save(plain, "PNG")
    chunk = Image.open(io.BytesIO(variation)).text["unclip"]  # type: ignore[attr-defined]
    info = PngInfo()
    info.add_text("unclip", json.dumps(json.loads(chunk) | {"index": 9}))
    forged = io.BytesIO()
    Image.new("RGB", (64, 64)).save(forged, "PNG", pnginfo=info)
    for png, paths, reason in (
        (b"hello", (), "PNG"),
        (plain.getvalue(), (), "'unclip'"),
        (variation, (), "input images are missing: image. Pass each with --input FILE."),
        (variation, (files / "hole.png",), "hole.png is not an input image of the request"),
        (forged.getvalue(), (photo,), "seed"),
    ):
        assert reproduce(png, *paths) == 2
        assert reason in capsys.readouterr().err
    assert not (files / "again.png").exists()


def test_the_candidate_of_the_prior_is_recorded(pipeline: UnCLIP) -> None:
    """One of those that the request has; none for the autoregressive prior."""
    request = {"prompt": "a cone", "prior_num_candidates": 8, "n": 4}
    candidates = {
        read_provenance(generate_png(pipeline, "generate", request, {}, index)).prior_candidate
        for index in range(4)
    }
    assert len(candidates) > 1
    assert candidates <= set(range(8))
    autoregressive = {"prompt": "a cone", "prior": "autoregressive"}
    png = generate_png(pipeline, "generate", autoregressive, {})
    assert read_provenance(png).prior_candidate is None


def test_a_reduced_image_is_compared_at_its_size(pipeline: UnCLIP, reproduce: Reproduce) -> None:
    """The service delivers images with fewer pixels on request."""
    png = generate_png(pipeline, "generate", {"prompt": "a red cube"}, {})
    assert reproduce(convert_image(png, 32)) == 0


def test_an_image_after_dropped_ones_is_reproduced(pipeline: UnCLIP, reproduce: Reproduce) -> None:
    """The third image of a mix, delivered first: the mix's prompts use the job's first seed."""
    request = {"mix": [{"prompt": "a cone"}, {"prompt": "a cube", "weight": 0.5}], "n": 3}
    png = generate_png(pipeline, "generate", request, {}, 2, delivered_index=0)
    provenance = read_provenance(png)
    assert provenance.index == 2
    assert provenance.seed == 7
    assert reproduce(png) == 0


def test_a_changed_pixel_is_noticed(pipeline: UnCLIP, reproduce: Reproduce, capsys: Any) -> None:
    """The provenance is unchanged, the image is not."""
    png = generate_png(pipeline, "generate", {"prompt": "a red cube"}, {})
    pixels = decode_png(png)
    pixels[:, 3, 3] = torch.where(pixels[:, 3, 3] > 0, -1.0, 1.0)
    assert reproduce(encode_png(pixels, read_provenance(png).model_dump())) == 1
    assert "different image" in capsys.readouterr().out
