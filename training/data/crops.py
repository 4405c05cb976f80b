"""Crops of large images with degraded small versions: what the upsamplers learn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from training.data.degradation import SCALE, degrade_crops
from training.data.sources import Source
from training.trainer.step import Step


class CropSource(Protocol):
    """Large crops with degraded small versions."""

    def pairs(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return this process' crops of a step, `[B, 3, h, w]`, and `[B, 3, h/4, w/4]`.

        Both are in [-1, 1]. Half of the crops are mirrored."""


@dataclass(frozen=True)
class ImageCrops:
    """Windows of a quarter of the side of a source's images (paper, table 3: crop fraction 0.25).

    `size` is that of the source's images, 256 or 1024."""

    source: Source
    size: int

    def pairs(self, step: Step) -> tuple[Tensor, Tensor]:
        images, _ = self.source.pairs(step)
        side = self.size // SCALE
        corners = torch.randint(self.size - side + 1, (step.batch, 2), generator=step.generator)
        crops = [
            image[:, y : y + side, x : x + side]
            for image, (y, x) in zip(images, step.local(corners).tolist(), strict=True)
        ]
        x_0 = mirror_where(torch.stack(crops), step.uniform() < 0.5)
        return x_0, degrade_crops(x_0, self.size, step)


def mirror_where(images: Tensor, which: Tensor) -> Tensor:
    """Mirror the images `[B, 3, h, w]` for which `which` `[B]` is True."""
    return torch.where(which[:, None, None, None], images.flip(3), images)
