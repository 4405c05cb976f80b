"""What every experiment gets, and how it compares its results to the paper."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import UnCLIP
from training.evaluation.metrics import Estimate
from training.evaluation.solids.generation import CONDITIONING_MODES, RENDERINGS, generate
from training.scenes.solids.classifier import SceneClassifier

FIGURES = "findings"  # folder of the page's figures, next to the page
# Mode -> its name in tables and figures.
MODE_LABELS = CONDITIONING_MODES | {RENDERINGS: "renderings"}


@dataclass(frozen=True)
class Bench:
    """A checkpoint, the scene classifier that scores it, and the page's folder."""

    pipeline: UnCLIP
    classifier: SceneClassifier
    out: Path
    mix: str = "whole"
    _images: dict[tuple[object, ...], Tensor] = field(default_factory=dict)

    @property
    def decoder_checksum(self) -> str:
        """Eight hexadecimal digits that identify the decoder's weights."""
        checksum = 0
        for value in self.pipeline.decoder.state_dict().values():
            checksum = zlib.crc32(value.float().cpu().numpy().tobytes(), checksum)
        return f"{checksum:08x}"

    def generate(
        self, texts: Sequence[str], seeds: Sequence[int], mode: str = "prior", **parameters: Any
    ) -> Tensor:
        """Generate images as `generation.generate` does, each only once.

        Several experiments use the same images."""
        resolved = self.pipeline.resolve(size=64, **parameters)
        keys = [(text, seed, mode, resolved) for text, seed in zip(texts, seeds, strict=True)]
        new = [k for k, key in enumerate(keys) if key not in self._images]
        if new:
            images = generate(
                self.pipeline, [texts[k] for k in new], [seeds[k] for k in new], mode, **parameters
            )
            self._images.update(zip((keys[k] for k in new), images, strict=True))
        return torch.stack([self._images[key] for key in keys])

    def figure(self, name: str) -> Path:
        """Return a figure's path, and create its folder."""
        path = self.out / FIGURES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def format_figure(name: str, description: str) -> str:
    """Return a figure in Markdown, with its description as alternative text."""
    return f"![{description}]({FIGURES}/{name})"


def is_below(less: Estimate, more: Estimate) -> bool | None:
    """Return whether `less` is below `more`, None if their intervals overlap."""
    return less.value < more.value if less.is_apart_from(more) else None


def is_positive(estimate: Estimate) -> bool | None:
    """Return whether a difference is above 0, None if its interval includes 0."""
    return None if estimate.low <= 0 <= estimate.high else estimate.value > 0


def is_majority(estimate: Estimate) -> bool | None:
    """Return whether a share is above a half, None if its interval includes a half."""
    return None if estimate.low <= 0.5 <= estimate.high else estimate.value > 0.5


def format_verdict(holds: bool | None, claim: str, *, is_papers: bool = True) -> str:
    """Return a list item: a claim, of the paper or not, and whether it holds in this run."""
    if is_papers:
        yes = "As in the paper"
        no = "Not as in the paper"
    else:
        yes = "True here"
        no = "Not true here"
    opening = {True: yes, False: no, None: "Inconclusive at this count"}[holds]
    return f"- **{opening}:** {claim}"
