"""Grounds: plain white, plain colours, and places at three times of day."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor

from training.scenes.illustrated.world import GROUND_COLOURS

HORIZON = 0.55
_SKIES = {
    "day": ((120, 190, 245), (205, 232, 250)),
    "sunset": ((240, 120, 90), (253, 205, 130)),
    "night": ((14, 18, 48), (40, 52, 100)),
}
_FLOORS = {
    "grass": (96, 175, 80),
    "sand": (232, 205, 150),
    "snow": (242, 246, 252),
    "wood": (176, 122, 74),
    "water": (50, 125, 205),
    "space": (8, 8, 22),
    "checker": (235, 235, 235),
}
_LIGHT = {"day": 1.0, "sunset": 0.82, "night": 0.45}
_ROUGHNESS = {"grass": 0.09, "sand": 0.05, "snow": 0.02, "wood": 0.03, "water": 0.05}


def draw_ground(ground: str | None, time: str | None, index: int, size: int) -> Tensor:
    """Return an empty ground `[3, size, size]` in [0, 1]. The same index gives the same texture at
    every size."""
    if ground is None:
        return torch.ones(3, size, size)
    if time is None:
        return _colour(GROUND_COLOURS[ground]).expand(3, size, size).clone()
    rng = random.Random(f"ground {index}")
    generator = torch.Generator().manual_seed(rng.getrandbits(40))
    horizon = round((HORIZON + rng.uniform(-0.06, 0.06)) * size)
    sky = _sky(time, size, generator, starry=ground == "space" or time == "night")
    if ground == "space":
        dark = _colour(_FLOORS["space"]).expand(3, size, size)
        return (dark + _stars(size, generator, 60)).clamp(0, 1)
    floor = _floor(ground, size, size - horizon, generator) * _LIGHT[time]
    if time == "sunset":
        floor = floor * _colour((255, 225, 205))
    canvas = sky
    canvas[:, horizon:] = floor
    return canvas.clamp(0, 1)


def _colour(value: tuple[int, int, int]) -> Tensor:
    return torch.tensor(value, dtype=torch.float32)[:, None, None] / 255


def _sky(time: str, size: int, generator: torch.Generator, *, starry: bool) -> Tensor:
    top, bottom = _SKIES[time]
    share = torch.linspace(0, 1, size)[None, :, None]
    sky = (_colour(top) * (1 - share) + _colour(bottom) * share).expand(3, size, size).clone()
    return sky + _stars(size, generator, 25) if starry else sky


def _stars(size: int, generator: torch.Generator, count: int) -> Tensor:
    points = torch.rand(count, 2, generator=generator)
    light = torch.zeros(1, 64, 64)
    places = (points * 64).long()
    light[0, places[:, 1], places[:, 0]] = 0.9
    return F.interpolate(light[None], (size, size), mode="bilinear", align_corners=False)[0]


def _floor(ground: str, size: int, height: int, generator: torch.Generator) -> Tensor:
    height = max(1, height)
    base = _colour(_FLOORS[ground]).expand(3, height, size)
    if ground == "checker":
        depth = torch.linspace(0.25, 1.0, height)[:, None]
        across = (torch.linspace(-1, 1, size)[None, :] / depth * 2).floor()
        along = (3 / depth).floor()
        dark = ((across + along) % 2 == 0).float()[None]
        return base * (1 - 0.62 * dark)
    shape = {"wood": (1, 1, 9, 3), "water": (1, 1, 22, 5)}.get(ground, (1, 1, 24, 40))
    noise = torch.randn(shape, generator=generator)
    texture = F.interpolate(
        noise, (height, size), mode="bicubic" if ground != "wood" else "nearest", antialias=False
    )[0]
    return base * (1 + _ROUGHNESS[ground] * texture)
