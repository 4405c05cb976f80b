"""A last upsampler from elsewhere, behind a tiny Karlo: a x4 model that spandrel knows by its tensors, or another checkpoint's."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models import CheckpointError, UnCLIP
from models.checkpoints import checkpoint, external_upsampler
from models.stages.upsampler import UpsamplerStage

REFERENCE: dict[str, Any] = runpy.run_path(str(Path(__file__).with_name("karlo_reference.py")))
FEW = {f"{part}_num_inference_steps": 1 for part in ("prior", "decoder", "upsampler")}


def compact(scale: int = 4, channels: int = 3) -> dict[str, Tensor]:
    """Real-ESRGAN's small architecture with random weights: three convolutions, so that it sees three pixels around each."""
    shapes: dict[str, list[int]] = {
        "body.0": [8, channels, 3, 3],
        "body.2": [8, 8, 3, 3],
        "body.4": [channels * scale**2, 8, 3, 3],
    }
    tensors = {}
    for name, shape in shapes.items():
        tensors |= {
            f"{name}.weight": REFERENCE["weight"](name, shape),
            f"{name}.bias": torch.zeros(shape[0]),
        }
    return tensors | {
        "body.1.weight": torch.full((8,), 0.2),
        "body.3.weight": torch.full((8,), 0.2),
    }


def esrgan() -> dict[str, Tensor]:
    """ESRGAN with one block and random weights."""
    shapes = {
        f"body.0.rdb{n}.conv{k}": [3 if k == 5 else 32, 3 + 32 * (k - 1), 3, 3]
        for n in (1, 2, 3)
        for k in range(1, 6)
    }
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last", "conv_first"):
        shapes[name] = [3, 3, 3, 3]
    return {
        f"{name}.{kind}": REFERENCE["weight"](
            f"{name}.{kind}", shape if kind == "weight" else shape[:1]
        )
        for name, shape in shapes.items()
        for kind in ("weight", "bias")
    }


@pytest.fixture(scope="module")
def karlo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("karlo")
    REFERENCE["write_folder"](folder)
    return folder


def written(folder: Path, tensors: dict[str, Tensor]) -> Path:
    path = folder / "net_x4.safetensors"
    save_file(tensors, path)
    return path


@torch.inference_mode()
@pytest.mark.parametrize("size", [256, 300, 144])
def test_tiles_give_what_the_whole_gives(tmp_path: Path, size: int) -> None:
    """To rounding, at the borders too, of a model that sees no farther than an overlap's outer part; it never gets more than a tile."""
    model = external_upsampler.load(written(tmp_path, compact()))
    low = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sides: list[int] = []
    hook = model.model.register_forward_pre_hook(lambda _, given: sides.append(given[0].shape[-1]))
    tiled = model(low)
    hook.remove()
    assert max(sides) == external_upsampler.TILE
    assert tiled.shape == (2, 3, 4 * size, 4 * size)
    model.tiled = False
    assert torch.allclose(tiled, model(low), atol=1e-5)
    assert tiled.std() > 0.1  # not all clamped


def test_karlo_draws_1024_with_esrgan(karlo_folder: Path, tmp_path: Path) -> None:
    """The 256² image, upscaled; the pipeline says so in its sizes and its name."""
    pipeline = UnCLIP.load(karlo_folder, upsampler=written(tmp_path, esrgan()))
    assert pipeline.sizes == (64, 256, 1024)
    assert pipeline.name == "karlo-v1-alpha+net_x4"
    image = pipeline.generate(["a red cube"], size=1024, **FEW)
    small = pipeline.generate(["a red cube"], size=256, **FEW)
    assert image.shape == (1, 3, 1024, 1024)
    assert image.isfinite().all()
    assert image.abs().max() <= 1
    with torch.inference_mode():
        assert torch.equal(image, pipeline.checkpoint.networks["upsampler_1024"](small))
    assert pipeline.resolve(size=1024).size == 1024


def test_half_precision_and_turns_on_the_device_hold_for_it_too(
    karlo_folder: Path, tmp_path: Path
) -> None:
    """Its weights in bf16 in host memory until it is their turn."""
    pipeline = UnCLIP.load(
        karlo_folder,
        dtype=torch.bfloat16,
        upsampler=written(tmp_path, compact()),
        offload_budget_bytes=0,
    )
    assert pipeline.generate(["a red cube"], size=1024, **FEW).isfinite().all()
    assert pipeline.offloader is not None
    assert pipeline.offloader.on_device == ("upsampler_1024",)
    assert next(pipeline.checkpoint.networks["upsampler_1024"].parameters()).dtype == torch.bfloat16


def test_another_checkpoints_upsampler_is_borrowed(
    karlo_folder: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """With the sampler it was made for; of a checkpoint that has one."""
    pipeline = UnCLIP.load(karlo_folder, upsampler=tiny_checkpoint)
    assert pipeline.sizes == (64, 256, 1024)
    assert pipeline.generate(["a red cube"], size=1024, **FEW).shape == (1, 3, 1024, 1024)
    samplers = [
        stage.coefficients(pipeline.resolve(size=1024))
        for stage in pipeline.stages.values()
        if isinstance(stage, UpsamplerStage)
    ]
    assert samplers[0].max_noise is not None
    assert samplers[1].max_noise is None
    found = checkpoint.load(tiny_checkpoint)
    del found.config["upsampler_1024"]
    checkpoint.save(tmp_path, found.config, {}, "")
    with pytest.raises(CheckpointError, match="has no upsampler_1024"):
        external_upsampler.add_upsampler(found, tmp_path)
    del found.networks["upsampler_256"]
    with pytest.raises(CheckpointError, match="'tiny' does not generate 256²"):
        external_upsampler.add_upsampler(found, tiny_checkpoint)


class Touching:
    """What would make a file, were it unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            compact(scale=2),
            "is a RealESRGAN Compact model of scale 2 from 3 to 3 channels: a last upsampler has scale 4",
        ),
        (compact(channels=1), "of scale 4 from 1 to 1 channels"),
        ({"weight": torch.zeros(2)}, "contains no model that spandrel supports"),
    ],
)
def test_what_is_no_x4_rgb_model_is_refused(
    tmp_path: Path, tensors: dict[str, Tensor], message: str
) -> None:
    """By what it is instead."""
    with pytest.raises(CheckpointError, match=message):
        external_upsampler.load(written(tmp_path, tensors))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt"])
def test_nothing_in_a_file_is_run(tmp_path: Path, suffix: str) -> None:
    """A pickle is read as tensors only, TorchScript not at all; a file of nothing but tensors does."""
    path = tmp_path / f"net{suffix}"
    torch.save({"params_ema": compact(), "more": Touching(tmp_path / "touched")}, path)
    with pytest.raises(CheckpointError, match="contains other objects than tensors"):
        external_upsampler.load(path)
    assert not (tmp_path / "touched").exists()
    torch.jit.script(torch.nn.Conv2d(3, 3, 3)).save(path)
    with pytest.raises(CheckpointError, match="contains other objects than tensors"):
        external_upsampler.load(path)
    torch.save({"params_ema": compact()}, path)
    assert external_upsampler.load(path)(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 32, 32)


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file, or the library."""
    with pytest.raises(
        CheckpointError, match="neither a checkpoint folder nor a file of a x4 model"
    ):
        external_upsampler.load(tmp_path / "none.pth")
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(CheckpointError, match="pip install spandrel"):
        external_upsampler.load(tmp_path / "none.pth")
