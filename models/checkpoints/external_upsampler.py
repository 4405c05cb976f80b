"""A last upsampler from elsewhere: another checkpoint's, or any x4 model that spandrel supports.

Such a model (Real-ESRGAN and similar) takes 256² to 1024² in one step and without noise. It runs
over overlapping tiles, so that its memory does not grow with the image. Our own upsamplers are not
tiled, because their group norms depend on the whole image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from models.checkpoints.checkpoint import Checkpoint, load_network, read_config
from models.checkpoints.tensor_files import CheckpointError, TensorFile, open_tensors
from models.networks.dtypes import to_float32

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor

SCALE = 4
# In pixels of the small image. The outer pixels of an overlap are unused, because a tile has its
# border there and the image continues. Across the rest one tile fades into the next.
TILE = 144
OVERLAP = 32
UNUSED = 8


class ExternalUpsampler(nn.Module):
    """Enlarges an image to four times its side."""

    def __init__(self, descriptor: ImageModelDescriptor[nn.Module]) -> None:
        super().__init__()
        from spandrel import ModelTiling

        self.model = descriptor.model
        self._run = descriptor
        self.tiled = descriptor.tiling is ModelTiling.SUPPORTED

    def forward(self, low_res: Tensor) -> Tensor:
        """Enlarge low_res `[B, 3, s, s]` to `[B, 3, 4s, 4s]`, both in [-1, 1].

        Both are in fp32 whatever the weights' dtype."""
        images = low_res.clamp(-1, 1) * 0.5 + 0.5
        return torch.stack([self._enlarge(image[None])[0] for image in images]) * 2 - 1

    def _enlarge(self, image: Tensor) -> Tensor:
        """Enlarge `[1, 3, s, s]` to `[1, 3, 4s, 4s]`, both in [0, 1], by tiles if needed."""
        size = image.shape[-1]
        if not self.tiled or size <= TILE:
            return self._run_model(image)
        whole = image.new_zeros(1, 3, SCALE * size, SCALE * size)
        total = image.new_zeros(SCALE * size, SCALE * size)
        for top, down in _tiles(size):
            for left, across in _tiles(size):
                weight = down.to(whole)[:, None] * across.to(whole)
                lines = slice(SCALE * top, SCALE * (top + TILE))
                columns = slice(SCALE * left, SCALE * (left + TILE))
                tile = image[..., top : top + TILE, left : left + TILE]
                whole[..., lines, columns] += weight * self._run_model(tile)
                total[lines, columns] += weight
        return whole / total

    def _run_model(self, image: Tensor) -> Tensor:
        return to_float32(self._run(image.to(next(self.model.parameters()).dtype)))


def _tiles(size: int) -> Iterator[tuple[int, Tensor]]:
    """Yield where each tile begins along a side, and the weight of its pixels `[4 TILE]`.

    The weight is 1 in the middle and falls to 0 where another tile takes over."""
    count = math.ceil((size - OVERLAP) / (TILE - OVERLAP))
    place = (torch.arange(SCALE * TILE) + 0.5) / SCALE
    for index in range(count):
        before = place if index else torch.full_like(place, torch.inf)
        after = TILE - place if index + 1 < count else torch.full_like(place, torch.inf)
        weight = (torch.minimum(before, after) - UNUSED) / (OVERLAP - 2 * UNUSED)
        yield round(index * (size - TILE) / (count - 1)), weight.clamp(0, 1)


def load(
    path: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> ExternalUpsampler:
    """Load a x4 RGB model from a .safetensors or .pth file.

    The file is opened here and not by spandrel, which would also run TorchScript, so that spandrel
    receives only tensors. Raises CheckpointError for another file."""
    try:
        import spandrel
    except ImportError as error:
        raise CheckpointError(
            f"spandrel is not installed, and {path} needs it: run pip install spandrel"
        ) from error
    if not path.is_file():
        raise CheckpointError(
            f"{path} is neither a checkpoint folder nor a file of a x{SCALE} model"
        )
    state = spandrel.canonicalize_state_dict(_read_state(path))
    try:
        model = spandrel.ModelLoader().load_from_state_dict(state)
    except Exception as error:
        # Its architectures raise exceptions of many types for a tensor that they do not expect.
        raise CheckpointError(
            f"{path} contains no model that spandrel supports: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, spandrel.ImageModelDescriptor) or (
        model.scale,
        model.input_channels,
        model.output_channels,
    ) != (SCALE, 3, 3):
        raise CheckpointError(
            f"{path} is a {model.architecture.name} model of scale {model.scale} from "
            f"{model.input_channels} to {model.output_channels} channels: a last upsampler has "
            f"scale {SCALE} and 3 channels (RGB)"
        )
    supported = {torch.float16: model.supports_half, torch.bfloat16: model.supports_bfloat16}
    dtype = dtype if supported.get(dtype, True) else torch.float32
    model.model.to(device, dtype).eval().requires_grad_(False)
    return ExternalUpsampler(model)


def _read_state(path: Path) -> dict[str, Any]:
    file = open_tensors(path)
    if isinstance(file, TensorFile):
        return {key: file.read(key) for key in file.shapes}
    return file.contents


def add_upsampler(
    checkpoint: Checkpoint,
    path: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Checkpoint:
    """Return a checkpoint with the last upsampler of another one, or with a x4 model.

    `path` is a checkpoint folder of our layout, or a file as in `load`. Raises CheckpointError for
    another one, and for a checkpoint without 256²."""
    if "upsampler_256" not in checkpoint.networks:
        raise CheckpointError(
            f"{path} upsamples 256² to 1024², and checkpoint {checkpoint.name!r} does not generate "
            "256²"
        )
    config = checkpoint.config
    if path.is_dir():
        other = read_config(path)
        if "upsampler_1024" not in other:
            raise CheckpointError(
                f"{path} has no upsampler_1024: name a checkpoint folder that has one, or a file "
                f"of a x{SCALE} model"
            )
        network: nn.Module = load_network(
            path, "upsampler_1024", other["upsampler_1024"], device, dtype
        )
        # It was trained for the sampler of its checkpoint, which may differ from this one's.
        defaults = config["defaults"] | {
            "upsampler_1024_sampler": other["defaults"]["upsampler_sampler"]
        }
        config = config | {"upsampler_1024": other["upsampler_1024"], "defaults": defaults}
    else:
        network = load(path, device, dtype)
    networks = checkpoint.networks | {"upsampler_1024": network}
    name = f"{checkpoint.name}+{path.stem}"
    return replace(checkpoint, name=name, config=config, networks=networks)
