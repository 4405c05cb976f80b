"""Batches of synthetic scenes, from a cache or rendered when needed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.data.solids.scene_cache import Images
from training.scenes.pixels import to_float
from training.scenes.solids.captions import draw_caption
from training.scenes.solids.labels import encode_labels
from training.scenes.solids.render import render
from training.scenes.solids.scene import MIXES, Scene, Split, draw_scene
from training.trainer.step import Step, step_generator


@dataclass(frozen=True)
class SceneSource:
    """The scenes of a mix, in pairs of near twins.

    With a cache, batches are drawn from its scenes. Without one every batch is new and rendered on
    the step's device."""

    mix: str
    cache: Images | None = None
    split: Split = "train"

    @property
    def size(self) -> int | None:
        """The number of scenes, None without a cache."""
        return None if self.cache is None else len(self.cache)

    def draw_indices(self, step: Step) -> list[int]:
        """Return the scene indices of a whole step: consecutive twins, shuffled with a cache."""
        pairs = step.batch // 2
        if self.cache is None:
            first = torch.arange(step.number * pairs, (step.number + 1) * pairs)
        else:
            first = torch.randperm(len(self.cache) // 2, generator=step.generator)[:pairs]
        return (first[:, None] * 2 + torch.arange(2)).flatten().tolist()

    def pairs(self, step: Step) -> tuple[Tensor, list[str]]:
        indices = self.draw_indices(step)
        scenes = self.draw_scenes(indices)
        images = self.load_images(step.local(indices), step.local(scenes), step.device)
        return images, step.local(draw_captions(scenes, step))

    def labelled(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return this process' images of a step, `[B, 3, 64, 64]`, and labels `[B, questions]`."""
        indices = step.local(self.draw_indices(step))
        scenes = self.draw_scenes(indices)
        images = self.load_images(indices, scenes, step.device)
        return images, encode_labels(scenes).to(step.device)

    def first_batches(self, count: int, device: torch.device) -> Iterator[tuple[Tensor, list[str]]]:
        indices = list(range(min(count, self.size or count)))
        scenes = self.draw_scenes(indices)
        captions = draw_captions(scenes, Step(0, len(indices), device, step_generator(0, 0)))
        for start in range(0, len(indices), 256):
            part = slice(start, start + 256)
            yield self.load_images(indices[part], scenes[part], device), captions[part]

    def draw_scenes(self, indices: list[int]) -> list[Scene]:
        """Return the scenes of these indices."""
        return [draw_scene(index, MIXES[self.mix], self.split) for index in indices]

    def load_images(self, indices: list[int], scenes: list[Scene], device: torch.device) -> Tensor:
        """Return the images of scenes, `[B, 3, 64, 64]` in [-1, 1]."""
        if self.cache is None:
            return render(scenes, 64, device=str(device))
        return to_float(torch.from_numpy(np.ascontiguousarray(self.cache[indices]))).to(device)


def draw_captions(scenes: list[Scene], step: Step) -> list[str]:
    """Return a random caption of each scene, by the step's random numbers."""
    rng = random.Random(int(torch.randint(1 << 62, (), generator=step.generator)))
    return [draw_caption(scene, rng).text for scene in scenes]
