"""Sources of training data: images with captions, as a function of the step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from training.trainer.step import Step

# Captions as text, or as CLIP's tokens `[B, L]`.
Captions = list[str] | Tensor


class Source(Protocol):
    """Images with captions: synthetic scenes, a folder or webdataset shards."""

    def pairs(self, step: Step) -> tuple[Tensor, Captions]:
        """Return this process' images of a step, `[B, 3, S, S]` in [-1, 1], and their captions."""

    def first_batches(self, count: int, device: torch.device) -> Iterator[tuple[Tensor, Captions]]:
        """Yield the first `count` images and captions, at most 256 a batch, for statistics.

        They are the same in every process."""


@dataclass(frozen=True)
class MixedSource:
    """Several sources with an equal part of every batch.

    The noise that an image meets depends on the number of processes."""

    sources: tuple[Source, ...]

    def pairs(self, step: Step) -> tuple[Tensor, Captions]:
        part = replace(step, batch=step.batch // len(self.sources))
        parts = [source.pairs(part) for source in self.sources]
        images = torch.cat([images for images, _ in parts])
        tokens = [captions for _, captions in parts if isinstance(captions, Tensor)]
        if tokens:
            return images, torch.cat(tokens)
        return images, [text for _, captions in parts for text in captions]

    def first_batches(self, count: int, device: torch.device) -> Iterator[tuple[Tensor, Captions]]:
        return self.sources[0].first_batches(count, device)
