"""A contact sheet of the checkpoint at 256²: captions with their seeds, unselected."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from training.evaluation.figures import save_sheet, wrap
from training.experiments.harness import Bench, format_figure

PROMPTS = (
    "a red cube on top of a blue cube",
    "a yellow sphere on snow",
    "a green cone left of a purple cylinder",
    "a sign that says HELLO by day",
    "a white sphere in front of an orange cylinder",
    "a blue cone at sunset",
    "a purple sphere on top of a green cylinder on grass",
    "a red cylinder on a checkered floor at night",
    "an orange cone behind a blue sphere",
    "a pencil sketch of a cyan cylinder",
    "a pixel art of a yellow cube on sand",
    "three red spheres",
)
COLUMNS = 6
MAX_SIZE_PX = 256


@dataclass(frozen=True)
class Result:
    """The size of the images on the sheet."""

    size: int


def measure(bench: Bench, count: int) -> Result:
    """Generate the first `count` prompts from seed 1, at the largest size up to MAX_SIZE_PX."""
    size = max(size for size in bench.pipeline.sizes if size <= MAX_SIZE_PX)
    prompts = PROMPTS[:count]
    images = torch.cat(
        [bench.pipeline.generate([prompt], seeds=[1], size=size).cpu() for prompt in prompts]
    )
    labels = [f"{wrap(prompt, 26)}\nseed 1" for prompt in prompts]
    under = [labels[k : k + COLUMNS] for k in range(0, len(labels), COLUMNS)]
    save_sheet(list(images.split(COLUMNS)), bench.figure("gallery.jpg"), under=under, inches=2.0)
    return Result(size)


def report(result: Result) -> str:
    """Return the part of the page."""
    return (
        f"Generated at {result.size}² with the checkpoint's defaults, not selected.\n\n"
        + format_figure("gallery.jpg", "An image of each caption")
    )
