"""A last upsampler from elsewhere, for checkpoints that have none: another checkpoint's, or any x4 model that spandrel knows.

Such a model (Real-ESRGAN and its kin) takes 256² to 1024² in one step and without noise. It runs over tiles that overlap, so that
its memory does not grow with the image. Our own upsamplers are not tiled: their group norms look at the whole image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.checkpoints.checkpoint import (
    Checkpoint,
    CheckpointError,
    TensorFile,
    load_network,
    open_tensors,
    read_config,
)
from models.networks.clip import widened

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor

SCALE = 4
# In pixels of the small image. Of an overlap the outer pixels count for nothing: there a tile sees its border where the image
# goes on. Across the rest one tile fades into the next.
TILE = 144
OVERLAP = 32
BLIND = 8


class Upscaler(nn.Module):
    """A small image -> the same at four times the size."""

    def __init__(self, descriptor: ImageModelDescriptor[nn.Module]) -> None:
        super().__init__()
        from spandrel import ModelTiling

        self.model = descriptor.model
        self._run = descriptor
        self.tiled = descriptor.tiling is ModelTiling.SUPPORTED

    def forward(self, low: Tensor) -> Tensor:
        """low `[B, 3, s, s]` in [-1, 1] -> `[B, 3, 4s, 4s]` in [-1, 1]; both in fp32 whatever the weights' dtype."""
        images = low.clamp(-1, 1) * 0.5 + 0.5
        return torch.stack([self._upscaled(image[None])[0] for image in images]) * 2 - 1

    def _upscaled(self, image: Tensor) -> Tensor:
        """`[1, 3, s, s]` -> `[1, 3, 4s, 4s]`, in [0, 1]."""
        size = image.shape[-1]
        if not self.tiled or size <= TILE:
            return self._passed(image)
        whole = image.new_zeros(1, 3, SCALE * size, SCALE * size)
        total = image.new_zeros(SCALE * size, SCALE * size)
        for top, down in _tiles(size):
            for left, across in _tiles(size):
                weight = down.to(whole)[:, None] * across.to(whole)
                place = (
                    ...,
                    slice(SCALE * top, SCALE * (top + TILE)),
                    slice(SCALE * left, SCALE * (left + TILE)),
                )
                whole[place] += weight * self._passed(
                    image[..., top : top + TILE, left : left + TILE]
                )
                total[place] += weight
        return whole / total

    def _passed(self, image: Tensor) -> Tensor:
        return widened(self._run(image.to(next(self.model.parameters()).dtype)))


def _tiles(size: int) -> Iterator[tuple[int, Tensor]]:
    """Where tiles begin along a side, and what each of their pixels counts `[4 TILE]`: 1 in the middle, falling to 0 where another
    tile takes over."""
    count = math.ceil((size - OVERLAP) / (TILE - OVERLAP))
    place = (torch.arange(SCALE * TILE) + 0.5) / SCALE
    for index in range(count):
        before = place if index else torch.full_like(place, torch.inf)
        behind = TILE - place if index + 1 < count else torch.full_like(place, torch.inf)
        yield (
            round(index * (size - TILE) / (count - 1)),
            ((torch.minimum(before, behind) - BLIND) / (OVERLAP - 2 * BLIND)).clamp(0, 1),
        )


def load(
    path: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Upscaler:
    """Read a x4 RGB model from a .safetensors or .pth file. CheckpointError for what is none.

    We open the file, not spandrel, which would also run TorchScript: it sees nothing but tensors."""
    try:
        import spandrel
    except ImportError as error:
        raise CheckpointError(
            f"to upsample by {path} spandrel is needed, which is not installed: pip install spandrel"
        ) from error
    if not path.is_file():
        raise CheckpointError(
            f"{path} is neither a checkpoint folder nor a file of a x{SCALE} model"
        )
    file = open_tensors(path)
    state = (
        {key: file.read(key) for key in file.shapes}
        if isinstance(file, TensorFile)
        else file.contents
    )
    try:
        model = spandrel.ModelLoader().load_from_state_dict(spandrel.canonicalize_state_dict(state))
    except (
        Exception
    ) as error:  # of its architectures' own many kinds, where a tensor is not as they expect it
        raise CheckpointError(
            f"{path} holds no model that spandrel knows: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, spandrel.ImageModelDescriptor) or (
        model.scale,
        model.input_channels,
        model.output_channels,
    ) != (SCALE, 3, 3):
        raise CheckpointError(
            f"{path} is a {model.architecture.name} model of scale {model.scale} from {model.input_channels} to {model.output_channels} "
            f"channels: a last upsampler has scale {SCALE} and 3 channels (RGB)"
        )
    fits = {torch.float16: model.supports_half, torch.bfloat16: model.supports_bfloat16}.get(
        dtype, True
    )
    model.model.to(device, dtype if fits else torch.float32).eval().requires_grad_(False)
    return Upscaler(model)


def borrowed(
    checkpoint: Checkpoint,
    path: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Checkpoint:
    """A checkpoint with the last upsampler of another one of ours, a folder, or with a x4 model, a file."""
    if "upsampler_256" not in checkpoint.networks:
        raise CheckpointError(
            f"{path} would take 256² to 1024², and checkpoint {checkpoint.name!r} does not draw 256²"
        )
    config = checkpoint.config
    if path.is_dir():
        other = read_config(path)
        if "upsampler_1024" not in other:
            raise CheckpointError(
                f"{path} has no upsampler_1024 to borrow: name a checkpoint folder that has, or a file of a x{SCALE} model"
            )
        network: nn.Module = load_network(
            path, "upsampler_1024", other["upsampler_1024"], device, dtype
        )
        # Made for the sampler of its own checkpoint, whichever the others here have.
        defaults = config["defaults"] | {
            "upsampler_1024_sampler": other["defaults"]["upsampler_sampler"]
        }
        config = config | {"upsampler_1024": other["upsampler_1024"], "defaults": defaults}
    else:
        network = load(path, device, dtype)
    return Checkpoint(
        f"{checkpoint.name}+{path.stem}", config, checkpoint.networks | {"upsampler_1024": network}
    )
