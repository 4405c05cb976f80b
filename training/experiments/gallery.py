"""What the checkpoint draws at 256²: a contact sheet of captions with their seeds, as they came."""

from __future__ import annotations

import torch

from training.evaluation.figures import sheet, wrapped
from training.experiments.harness import Bench, embedded

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
SIZE = 256


def run(bench: Bench, count: int) -> str:
    """The first `count` prompts, each from seed 1, at the largest size up to SIZE."""
    size = max(size for size in bench.pipeline.sizes if size <= SIZE)
    prompts = PROMPTS[:count]
    images = torch.cat(
        [bench.pipeline.generate([prompt], seeds=[1], size=size).cpu() for prompt in prompts]
    )
    said = [f"{wrapped(prompt, 26)}\nseed 1" for prompt in prompts]
    under = [said[k : k + COLUMNS] for k in range(0, len(said), COLUMNS)]
    sheet(list(images.split(COLUMNS)), bench.figure("gallery.jpg"), under=under, inches=2.0)
    return f"Drawn at {size}² with the checkpoint's own defaults; none was picked.\n\n" + embedded(
        "gallery.jpg", "An image of each caption"
    )
