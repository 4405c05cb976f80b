"""Camera rays, and what each of them hits first."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from training.scenes.solids.intersections import (
    FAR,
    hit_cone,
    hit_cube,
    hit_cylinder,
    hit_sphere,
    rotate,
)
from training.scenes.solids.scene_batch import SceneBatch
from training.scenes.solids.sign import (
    BOARD_BOTTOM,
    BOARD_TOP,
    BOARD_Y,
    POST_HALF_WIDTH,
    board_half_width,
)

CAMERA = (0.0, -8.0, 3.4)
LOOK_AT = (0.0, 0.0, 1.15)
FIELD_OF_VIEW = math.radians(34)  # vertical and horizontal: images are square
MAX_FLOOR_DISTANCE = 60.0
# What a ray hits if not an object, which is identified by its slot.
FLOOR = -1
BOARD = -2
SKY = -3
_HIT = (hit_sphere, hit_cube, hit_cylinder, hit_cone)  # in the order of SHAPES
_CUBE = 1


def camera_rays(uv: Tensor) -> Tensor:
    """Return unit directions `[…, 3]` of the rays through image points `[…, 2]` in 0..1, y down."""
    camera, look_at = (torch.tensor(v, device=uv.device) for v in (CAMERA, LOOK_AT))
    ahead = F.normalize(look_at - camera, dim=0)
    right = F.normalize(
        torch.linalg.cross(ahead, torch.tensor((0.0, 0.0, 1.0), device=uv.device)), dim=0
    )
    up = torch.linalg.cross(right, ahead)
    reach = math.tan(FIELD_OF_VIEW / 2)
    x = (2 * uv[..., :1] - 1) * reach
    y = (1 - 2 * uv[..., 1:]) * reach
    return F.normalize(ahead + x * right + y * up, dim=-1)


def find_nearest(
    batch: SceneBatch, origin: Tensor, direction: Tensor, *, shadow: bool = False
) -> tuple[Tensor, Tensor]:
    """Return distance `[B, R]` and target `[B, R]` of the first hit of rays `[B, R, 3]`.

    The distance is FAR for none. A target is an object's slot, FLOOR, BOARD or SKY. Shadow rays
    test only objects and the board, since the floor cannot hide a light above it."""
    distance = _object_distances(batch, origin, direction)
    t, target = distance.min(1)
    target = torch.where(t < FAR, target, SKY)
    if bool((batch.letter_count > 0).any()):
        along = (BOARD_Y - origin[..., 1]) / direction[..., 1]
        x, z = (origin[..., k] + along * direction[..., k] for k in (0, 2))
        half = board_half_width(batch.letter_count)[:, None]
        on_board = (x.abs() < half) & (z > BOARD_BOTTOM) & (z < BOARD_TOP)
        on_post = (x.abs() < POST_HALF_WIDTH) & (z > 0) & (z <= BOARD_BOTTOM) & (half > 0)
        nearer = (on_board | on_post) & (along > 1e-3) & (along < t)
        t = torch.where(nearer, along, t)
        target = torch.where(nearer, BOARD, target)
    if not shadow:
        down = torch.where(direction[..., 2] < -1e-4, -origin[..., 2] / direction[..., 2], FAR)
        nearer = (down > 0) & (down < t) & (down < MAX_FLOOR_DISTANCE)
        t = torch.where(nearer, down, t)
        target = torch.where(nearer, FLOOR, target)
    return t, target


def _object_distances(batch: SceneBatch, origin: Tensor, direction: Tensor) -> Tensor:
    """Return the distance `[B, N, R]` to every object along every ray, FAR for a miss."""
    images, rays = origin.shape[:2]
    distance = origin.new_full((images, batch.shape.shape[1], rays), FAR)
    kinds = batch.shape[batch.which, batch.slot]
    for kind, intersect in enumerate(_HIT):
        chosen = (kinds == kind).nonzero()[:, 0]
        if not len(chosen):
            continue
        b = batch.which[chosen]
        n = batch.slot[chosen]
        radius = batch.radius[b, n][:, None]
        o = ((origin[b] - batch.foot[b, n][:, None]) / radius[..., None]).unbind(-1)
        d = direction[b].unbind(-1)
        if kind == _CUBE:
            o = rotate(o, batch.yaw[b, n])
            d = rotate(d, batch.yaw[b, n])
        t = intersect(o, d)
        distance[b, n] = torch.where(t < FAR, t * radius, FAR)
    return distance
