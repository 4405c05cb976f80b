"""Scenes as tensors, for the renderer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.scenes.solids.scene import (
    COLOURS,
    MAX_WORD,
    PLACES,
    SHAPES,
    STYLES,
    Scene,
    SceneObject,
)

# Per time of day: direction to the light, its colour, ambient, sky at the horizon, sky above.
_LIGHT = {
    "day": (
        (-0.45, -0.55, 0.85),
        (0.95, 0.93, 0.88),
        (0.42, 0.44, 0.48),
        (0.78, 0.87, 0.96),
        (0.30, 0.55, 0.90),
    ),
    "sunset": (
        (0.80, -0.55, 0.50),
        (1.00, 0.72, 0.50),
        (0.40, 0.34, 0.38),
        (0.98, 0.60, 0.32),
        (0.45, 0.28, 0.50),
    ),
    "night": (
        (-0.30, -0.60, 0.90),
        (0.50, 0.52, 0.62),
        (0.26, 0.28, 0.38),
        (0.06, 0.08, 0.20),
        (0.01, 0.01, 0.06),
    ),
}


@dataclass(frozen=True)
class SceneBatch:
    """B scenes with M objects in all, padded to N objects a scene."""

    which: Tensor  # [M] scene of each object
    slot: Tensor  # [M] place of each object in its scene
    shape: Tensor  # [B, N] index into SHAPES, -1 for padding
    foot: Tensor  # [B, N, 3] centre of the base
    radius: Tensor  # [B, N]
    yaw: Tensor  # [B, N]
    colour: Tensor  # [B, N, 3]
    shiny: Tensor  # [B, N]
    place: Tensor  # [B] index into PLACES
    style: Tensor  # [B] index into STYLES
    light: Tensor  # [B, 5, 3] direction, colour, ambient, horizon, zenith
    letters: Tensor  # [B, MAX_WORD] 0 to 25, -1 for none
    letter_count: Tensor  # [B] 0 for no sign


def batch_scenes(scenes: Sequence[Scene], device: torch.device) -> SceneBatch:
    """Convert scenes to tensors on a device."""
    count = max(1, *(len(scene.objects) for scene in scenes))

    def pad(
        values: Callable[[SceneObject], list[float]], width: int = 1, fill: float = 0.0
    ) -> Tensor:
        """Return `[B, N, width]`: the values of every object, `fill` for padding."""
        rows = [[values(obj) for obj in scene.objects] for scene in scenes]
        padded = [row + [[fill] * width] * (count - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.float32, device=device)

    slots = [(b, n) for b, scene in enumerate(scenes) for n in range(len(scene.objects))]
    slots = slots or [(0, 0)]
    words = [[ord(c) - 65 for c in scene.word or ""] for scene in scenes]
    light = torch.tensor([_LIGHT[scene.time] for scene in scenes], device=device)
    light[:, 0] = F.normalize(light[:, 0], dim=-1)
    return SceneBatch(
        which=torch.tensor([b for b, _ in slots], device=device),
        slot=torch.tensor([n for _, n in slots], device=device),
        shape=pad(lambda obj: [SHAPES.index(obj.shape)], fill=-1.0)[..., 0].long(),
        foot=pad(lambda obj: [obj.x, obj.y, obj.z], 3),
        radius=pad(lambda obj: [obj.radius], fill=1.0)[..., 0],
        yaw=pad(lambda obj: [obj.yaw])[..., 0],
        colour=pad(lambda obj: list(COLOURS[obj.colour]), 3),
        shiny=pad(lambda obj: [float(obj.material == "shiny")])[..., 0],
        place=torch.tensor([PLACES.index(scene.place) for scene in scenes], device=device),
        style=torch.tensor([STYLES.index(scene.style) for scene in scenes], device=device),
        light=light,
        letters=torch.tensor(
            [word + [-1] * (MAX_WORD - len(word)) for word in words], device=device
        ),
        letter_count=torch.tensor([len(word) for word in words], device=device),
    )
