"""What every experiment is given, and how it holds what it found against the paper."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import UnCLIP
from training.evaluation.generation import draw
from training.evaluation.metrics import Estimate
from training.scenes.classifier import Reader

FIGURES = "findings"  # folder of the page's figures


@dataclass(frozen=True)
class Bench:
    """A checkpoint, the scene reader that judges it, and the folder of the page."""

    pipeline: UnCLIP
    reader: Reader
    out: Path
    mix: str = "whole"
    _kept: dict[tuple[object, ...], Tensor] = field(default_factory=dict)

    @property
    def decoder_checksum(self) -> str:
        """Tells one decoder from another: eight hexadecimal digits of its weights."""
        found = 0
        for value in self.pipeline.decoder.state_dict().values():
            found = zlib.crc32(value.float().cpu().numpy().tobytes(), found)
        return f"{found:08x}"

    def draw(
        self, texts: Sequence[str], seeds: Sequence[int], way: str = "prior", **given: Any
    ) -> Tensor:
        """As `ways.draw`. What was drawn is kept, as several experiments look at the same images."""
        parameters = self.pipeline.resolve(size=64, **given)
        keys = [(text, seed, way, parameters) for text, seed in zip(texts, seeds, strict=True)]
        new = [k for k, key in enumerate(keys) if key not in self._kept]
        if new:
            images = draw(
                self.pipeline, [texts[k] for k in new], [seeds[k] for k in new], way, **given
            )
            self._kept.update(zip((keys[k] for k in new), images, strict=True))
        return torch.stack([self._kept[key] for key in keys])

    def figure(self, name: str) -> Path:
        """Where a figure goes; its folder is made."""
        path = self.out / FIGURES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def embedded(name: str, shown: str) -> str:
    """A figure in Markdown, with what it shows in words."""
    return f"![{shown}]({FIGURES}/{name})"


def below(less: Estimate, more: Estimate) -> bool | None:
    """Whether `less` is below `more`; None where their intervals meet, and it cannot be told."""
    return less.value < more.value if less.apart(more) else None


def positive(estimate: Estimate) -> bool | None:
    """Whether a difference is above 0; None where its interval has both."""
    return None if estimate.low <= 0 <= estimate.high else estimate.value > 0


def verdict(holds: bool | None, claim: str, *, papers: bool = True) -> str:
    """A claim and whether it holds in this run, as an item of a list; the paper's, or one that it does not make."""
    yes, no = (
        ("As in the paper", "Not as in the paper") if papers else ("So it is here", "Not so here")
    )
    opening = {True: yes, False: no, None: "Not told apart at this count"}[holds]
    return f"- **{opening}:** {claim}"
