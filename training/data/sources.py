"""Batches of the drawn world: images from a pool or drawn on the spot, with captions, as a function of the step."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from training.data.scene_cache import Images, to_float
from training.scenes.solids.captions import caption
from training.scenes.solids.render import render
from training.scenes.solids.scene import MIXES, Scene, Split, scene
from training.trainer.trainer import Step, step_generator

# Captions as people write them, or as the tokens that CLIP makes of them, `[B, L]`.
Captions = list[str] | Tensor


class Source(Protocol):
    """Images with captions to learn from: the drawn world, or images.Folder and images.Shards."""

    def pairs(self, step: Step) -> tuple[Tensor, Captions]:
        """This process' share of a step: `[B, 3, S, S]` in [-1, 1], and a caption of each."""

    def first(self, count: int, device: torch.device) -> Iterator[tuple[Tensor, Captions]]:
        """The first `count` images, in batches of at most 256, and captions: for statistics, the same in every process."""


@dataclass(frozen=True)
class World:
    """The training scenes of a mix. With a pool, indices wrap round in it; without one, every batch is new and drawn
    on the step's device."""

    mix: str
    cache: Images | None = None
    split: Split = "train"

    @property
    def size(self) -> int | None:
        """How many scenes there are; None where every batch is new."""
        return None if self.cache is None else len(self.cache)

    def indices(self, step: Step) -> list[int]:
        """Scene indices of a step: consecutive twins (see scene.scene), in random order where there is a pool."""
        pairs = step.batch // 2
        if self.cache is None:
            first = torch.arange(step.number * pairs, (step.number + 1) * pairs)
        else:
            first = torch.randperm(len(self.cache) // 2, generator=step.generator)[:pairs]
        return (first[:, None] * 2 + torch.arange(2)).flatten().tolist()

    def pairs(self, step: Step) -> tuple[Tensor, list[str]]:
        indices = self.indices(step)
        scenes = self.scenes(indices)
        return self.images(step.own(indices), step.own(scenes), step.device), step.own(
            captions(scenes, step)
        )

    def first(self, count: int, device: torch.device) -> Iterator[tuple[Tensor, list[str]]]:
        indices = list(range(min(count, self.size or count)))
        scenes = self.scenes(indices)
        said = captions(scenes, Step(0, len(indices), device, step_generator(0, 0)))
        for part in (slice(k, k + 256) for k in range(0, len(indices), 256)):
            yield self.images(indices[part], scenes[part], device), said[part]

    def scenes(self, indices: list[int]) -> list[Scene]:
        return [scene(i, MIXES[self.mix], self.split) for i in indices]

    def images(self, indices: list[int], scenes: list[Scene], device: torch.device) -> Tensor:
        """`[B, 3, 64, 64]` in [-1, 1]."""
        if self.cache is None:
            return render(scenes, 64, device=str(device))
        return to_float(torch.from_numpy(np.ascontiguousarray(self.cache[indices]))).to(device)


@dataclass(frozen=True)
class Blend:
    """Sources as one: each has an equal part of every batch. In several processes their images meet other noise than in one."""

    sources: tuple[Source, ...]

    def pairs(self, step: Step) -> tuple[Tensor, Captions]:
        part = replace(step, batch=step.batch // len(self.sources))
        found = [source.pairs(part) for source in self.sources]
        images = torch.cat([images for images, _ in found])
        told = [said for _, said in found if isinstance(said, Tensor)]
        return images, torch.cat(told) if told else [text for _, said in found for text in said]

    def first(self, count: int, device: torch.device) -> Iterator[tuple[Tensor, Captions]]:
        return self.sources[0].first(count, device)


def captions(scenes: list[Scene], step: Step) -> list[str]:
    """A caption of each scene, drawn with the step's numbers."""
    rng = random.Random(int(torch.randint(1 << 62, (), generator=step.generator)))
    return [caption(s, rng).text for s in scenes]
