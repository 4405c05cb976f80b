"""Batches of the drawn world: pictures from a pool or drawn on the spot, with captions, as a function of the step."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.captions import caption
from training.loop import Step
from training.pool import Pictures, to_float
from training.render import render
from training.scene import MIXES, Scene, Split, scene


@dataclass(frozen=True)
class World:
    """The training scenes of a mix. With a pool, indices wrap round in it; without one, every batch is new and drawn
    on the step's device."""

    mix: str
    pictures: Pictures | None = None
    split: Split = "train"

    @property
    def size(self) -> int | None:
        """How many scenes there are; None where every batch is new."""
        return None if self.pictures is None else len(self.pictures)

    def indices(self, step: Step) -> list[int]:
        """Scene indices of a step: consecutive twins (see scene.scene), in random order where there is a pool."""
        pairs = step.batch // 2
        if self.pictures is None:
            first = torch.arange(step.number * pairs, (step.number + 1) * pairs)
        else:
            first = torch.randperm(len(self.pictures) // 2, generator=step.generator)[:pairs]
        return (first[:, None] * 2 + torch.arange(2)).flatten().tolist()

    def scenes(self, indices: list[int]) -> list[Scene]:
        return [scene(i, MIXES[self.mix], self.split) for i in indices]

    def images(self, indices: list[int], scenes: list[Scene], device: torch.device) -> Tensor:
        """`[B, 3, 64, 64]` in [-1, 1]."""
        if self.pictures is None:
            return render(scenes, 64, device=str(device))
        return to_float(torch.from_numpy(np.ascontiguousarray(self.pictures[indices]))).to(device)


def captions(scenes: list[Scene], step: Step) -> list[str]:
    """A caption of each scene, drawn with the step's numbers."""
    rng = random.Random(int(torch.randint(1 << 62, (), generator=step.generator)))
    return [caption(s, rng).text for s in scenes]
