"""A last upsampler from elsewhere for a tiny Karlo: a x4 model or another checkpoint's."""

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
ONE_STEP = {f"{part}_num_inference_steps": 1 for part in ("prior", "decoder", "upsampler")}


def compact(scale: int = 4, channels: int = 3) -> dict[str, Tensor]:
    """Return random weights of Real-ESRGAN's small architecture.

    Each output pixel depends on three pixels to each side."""
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
    """Return random weights of ESRGAN with one block."""
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


def write_model(folder: Path, tensors: dict[str, Tensor]) -> Path:
    path = folder / "net_x4.safetensors"
    save_file(tensors, path)
    return path


@torch.inference_mode()
@pytest.mark.parametrize("size", [256, 300, 144])
def test_tiles_equal_the_whole_image(tmp_path: Path, size: int) -> None:
    """No tile is larger than TILE, and borders agree too."""
    model = external_upsampler.load(write_model(tmp_path, compact()))
    low = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sides: list[int] = []
    hook = model.model.register_forward_pre_hook(
        lambda _, inputs: sides.append(inputs[0].shape[-1])
    )
    tiled = model(low)
    hook.remove()
    assert max(sides) == external_upsampler.TILE
    assert tiled.shape == (2, 3, 4 * size, 4 * size)
    model.tiled = False
    assert torch.allclose(tiled, model(low), atol=1e-5)
    assert tiled.std() > 0.1


def test_karlo_generates_1024_with_esrgan(karlo_folder: Path, tmp_path: Path) -> None:
    """The result is the enlarged 256² image, and the pipeline's sizes and name include it."""
    pipeline = UnCLIP.load(karlo_folder, upsampler=write_model(tmp_path, esrgan()))
    assert pipeline.sizes == (64, 256, 1024)
    assert pipeline.name == "karlo-v1-alpha+net_x4"
    image = pipeline.generate(["a red cube"], size=1024, **ONE_STEP)
    small = pipeline.generate(["a red cube"], size=256, **ONE_STEP)
    assert image.shape == (1, 3, 1024, 1024)
    assert image.isfinite().all()
    assert image.abs().max() <= 1
    with torch.inference_mode():
        assert torch.equal(image, pipeline.checkpoint.networks["upsampler_1024"](small))
    assert pipeline.resolve(size=1024).size == 1024


def test_an_external_upsampler_supports_half_precision_and_offloading(
    karlo_folder: Path, tmp_path: Path
) -> None:
    """Its weights are in bf16 in host memory until they are needed."""
    pipeline = UnCLIP.load(
        karlo_folder,
        dtype=torch.bfloat16,
        upsampler=write_model(tmp_path, compact()),
        offload_budget_bytes=0,
    )
    assert pipeline.generate(["a red cube"], size=1024, **ONE_STEP).isfinite().all()
    assert pipeline.offloader is not None
    assert pipeline.offloader.on_device == ("upsampler_1024",)
    assert next(pipeline.checkpoint.networks["upsampler_1024"].parameters()).dtype == torch.bfloat16


def test_another_checkpoints_upsampler_can_be_added(
    karlo_folder: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """It keeps the sampler of its checkpoint."""
    pipeline = UnCLIP.load(karlo_folder, upsampler=tiny_checkpoint)
    assert pipeline.sizes == (64, 256, 1024)
    assert pipeline.generate(["a red cube"], size=1024, **ONE_STEP).shape == (1, 3, 1024, 1024)
    samplers = [
        stage.coefficients(pipeline.resolve(size=1024))
        for stage in pipeline.stages.values()
        if isinstance(stage, UpsamplerStage)
    ]
    assert samplers[0].max_noise is not None
    assert samplers[1].max_noise is None
    tiny = checkpoint.load(tiny_checkpoint)
    del tiny.config["upsampler_1024"]
    checkpoint.save(tmp_path, tiny.config, {}, "")
    with pytest.raises(CheckpointError, match="has no upsampler_1024"):
        external_upsampler.add_upsampler(tiny, tmp_path)
    del tiny.networks["upsampler_256"]
    with pytest.raises(CheckpointError, match="'tiny' does not generate 256²"):
        external_upsampler.add_upsampler(tiny, tiny_checkpoint)


class TouchOnUnpickle:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            compact(scale=2),
            "model of scale 2 from 3 to 3 channels: a last upsampler has scale 4",
        ),
        (compact(channels=1), "of scale 4 from 1 to 1 channels"),
        ({"weight": torch.zeros(2)}, "contains no model that spandrel supports"),
    ],
)
def test_another_model_is_an_error(
    tmp_path: Path, tensors: dict[str, Tensor], message: str
) -> None:
    """The message says what the file contains."""
    with pytest.raises(CheckpointError, match=message):
        external_upsampler.load(write_model(tmp_path, tensors))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt"])
def test_no_code_in_a_file_runs(tmp_path: Path, suffix: str) -> None:
    """Pickles are read as tensors only, and TorchScript is an error."""
    path = tmp_path / f"net{suffix}"
    torch.save({"params_ema": compact(), "more": TouchOnUnpickle(tmp_path / "touched")}, path)
    with pytest.raises(CheckpointError, match="contains other objects than tensors"):
        external_upsampler.load(path)
    assert not (tmp_path / "touched").exists()
    torch.jit.script(torch.nn.Conv2d(3, 3, 3)).save(path)
    with pytest.raises(CheckpointError, match="contains other objects than tensors"):
        external_upsampler.load(path)
    torch.save({"params_ema": compact()}, path)
    assert external_upsampler.load(path)(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 32, 32)


def test_a_missing_file_or_library_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names it."""
    with pytest.raises(
        CheckpointError, match="neither a checkpoint folder nor a file of a x4 model"
    ):
        external_upsampler.load(tmp_path / "none.pth")
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(CheckpointError, match="pip install spandrel"):
        external_upsampler.load(tmp_path / "none.pth")
