"""Render scenes: sprites over grounds, with torch, in batches."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from training.scenes.glyphs import GLYPH_HEIGHT, GLYPH_WIDTH, glyphs
from training.scenes.illustrated.grounds import draw_ground
from training.scenes.illustrated.layout import Placement, place
from training.scenes.illustrated.scene import Scene
from training.scenes.illustrated.world import COLOURS, World

SUPERSAMPLING = 2
SHADOW_OPACITY = 0.28


def render(
    world: World, scenes: Sequence[Scene], size: int = 64, supersampling: int = SUPERSAMPLING
) -> Tensor:
    """Return the scenes' images `[B, 3, size, size]` in [-1, 1]."""
    large = size * supersampling
    placements = [place(world, scene) for scene in scenes]
    canvas = torch.stack(
        [draw_ground(scene.ground, scene.time, scene.index, large) for scene in scenes]
    )
    for layer in range(max(map(len, placements))):
        rows = [row for row, one in enumerate(placements) if len(one) > layer]
        layers = [placements[row][layer] for row in rows]
        sprites = sprite_layer(world, layers, large)
        below = canvas[rows]
        has_shadow = torch.tensor(
            [scenes[row].time is not None for row in rows], dtype=torch.float32
        )
        if has_shadow.any():
            below = below * (1 - has_shadow[:, None, None, None] * _shadows(world, layers, large))
        canvas[rows] = sprites[:, :3] + below * (1 - sprites[:, 3:])
    for row, scene in enumerate(scenes):
        if scene.word:
            _draw_sign(canvas[row], scene.word, scene.index)
    small = F.avg_pool2d(canvas, supersampling) if supersampling > 1 else canvas
    return small.clamp(0, 1) * 2 - 1


def render_alpha(world: World, scenes: Sequence[Scene], size: int) -> Tensor:
    """Return how much of each pixel things cover, `[B, 1, size, size]` in [0, 1]."""
    open_share = torch.ones(len(scenes), 1, size, size)
    for row, scene in enumerate(scenes):
        for one in place(world, scene):
            open_share[row] *= 1 - sprite_layer(world, [one], size)[0, 3:]
    return (1 - open_share).clamp(0, 1)


def sprite_layer(world: World, placements: Sequence[Placement], size: int) -> Tensor:
    """Return one placed sprite an image, `[B, 4, size, size]` in [0, 1], colours premultiplied."""
    sprites = world.atlas.premultiplied(torch.tensor([one.row for one in placements]))
    coloured = [row for row, one in enumerate(placements) if one.colour]
    if coloured:
        targets = torch.tensor([COLOURS[placements[row].colour or ""] for row in coloured]) / 255
        sprites[coloured] = recolour(sprites[coloured], targets)
    # Affine maps from the frame's [-1, 1] to the sprite's.
    theta = torch.zeros(len(placements), 2, 3)
    for row, one in enumerate(placements):
        left, top, right, bottom = (float(value) for value in world.boxes[one.row])
        scale = max(right - left, bottom - top) / one.size  # sprite units a frame unit
        theta[row, 0, 0] = scale
        theta[row, 1, 1] = scale
        theta[row, 0, 2] = (left + right - 1) - scale * (2 * one.x - 1)
        theta[row, 1, 2] = (top + bottom - 1) - scale * (2 * one.y - 1)
    grid = F.affine_grid(theta, [len(placements), 4, size, size], align_corners=False)
    return F.grid_sample(sprites, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def recolour(sprites: Tensor, targets: Tensor) -> Tensor:
    """Return premultiplied sprites `[B, 4, S, S]` in these colours `[B, 3]`: black stays black,
    white stays white.

    Each pixel's luminance is placed on a ramp from black through the colour to white."""
    alpha = sprites[:, 3:].clamp(min=1e-4)
    weights = torch.tensor([0.299, 0.587, 0.114])
    light = (sprites[:, :3] / alpha * weights[:, None, None]).sum(1, keepdim=True).clamp(0, 1)
    inside = sprites[:, 3:] > 0.5
    # Middle of the ramp: the sprite's own median, so that most of it takes the colour as named.
    middle = torch.stack(
        [
            one[mask].median() if mask.any() else one.new_tensor(0.5)
            for one, mask in zip(light, inside, strict=True)
        ]
    )
    middle = middle.clamp(0.25, 0.8)[:, None, None, None]
    target = targets[:, :, None, None]
    dark = target * (light / middle)
    bright = target + (1 - target) * ((light - middle) / (1 - middle)).clamp(min=0) ** 1.5
    colours = torch.where(light < middle, dark, bright)
    return torch.cat((colours * sprites[:, 3:], sprites[:, 3:]), dim=1)


def _shadows(world: World, placements: Sequence[Placement], size: int) -> Tensor:
    """Return soft ellipses at the things' feet, `[B, 1, size, size]` in [0, 1]."""
    axis = (torch.arange(size) + 0.5) / size
    shadows = []
    for one in placements:
        left, top, right, bottom = (float(value) for value in world.boxes[one.row])
        longer = max(right - left, bottom - top)
        width = one.size * (right - left) / longer
        foot = one.y + one.size * (bottom - top) / longer / 2 - 0.01
        distance = ((axis[None, :] - one.x) / (0.5 * width + 1e-3)) ** 2 + (
            (axis[:, None] - foot) / (0.12 * width + 1e-3)
        ) ** 2
        shadows.append((SHADOW_OPACITY * torch.exp(-distance * 1.2))[None])
    return torch.stack(shadows)


def _draw_sign(canvas: Tensor, word: str, index: int) -> None:
    """Draw a board with the word over the lower part of an image `[3, S, S]` in [0, 1], in
    place."""
    size = canvas.shape[-1]
    rng = random.Random(f"sign {index}")
    bottom = round((0.97 + rng.uniform(-0.02, 0.0)) * size)
    cells = len(word) * (GLYPH_WIDTH + 1) + 1
    cell = min(0.9 * size / cells, 0.2 * size / (GLYPH_HEIGHT + 2))
    width = max(round(cell * cells), 2)
    height = max(round(cell * (GLYPH_HEIGHT + 2)), 2)
    board = torch.zeros(GLYPH_HEIGHT + 2, cells)
    letters = glyphs().float()
    for place_, letter in enumerate(word):
        start = 1 + place_ * (GLYPH_WIDTH + 1)
        board[1 : 1 + GLYPH_HEIGHT, start : start + GLYPH_WIDTH] = letters[ord(letter) - ord("A")]
    ink = F.interpolate(board[None, None], (height, width), mode="bilinear", antialias=True)[0]
    left = (size - width) // 2
    area = canvas[:, bottom - height : bottom, left : left + width]
    paper = torch.tensor([0.99, 0.97, 0.9])[:, None, None]
    dark = torch.tensor([0.12, 0.1, 0.1])[:, None, None]
    area.copy_(paper * (1 - ink) + dark * ink)
    edge = max(1, size // 64)
    for side in (area[:, :edge], area[:, -edge:], area[:, :, :edge], area[:, :, -edge:]):
        side.copy_(dark.expand_as(side))
