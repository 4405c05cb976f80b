"""Render scenes: a batched ray tracer with closed forms, in plain tensor maths.

Spheres, cubes, cylinders and cones on a floor, one distant light with a hard shadow, highlights,
fog toward a sky, a sign board, and three styles. Every colour is a function of the ray, so a crop
of a large image costs only its own rays, and a scene looks the same at 64² and at 1024².
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from training.scenes.solids.intersections import surface_normals
from training.scenes.solids.rays import (
    BOARD,
    CAMERA,
    FLOOR,
    MAX_FLOOR_DISTANCE,
    SKY,
    camera_rays,
    find_nearest,
)
from training.scenes.solids.scene import SHAPES, Scene
from training.scenes.solids.scene_batch import SceneBatch, batch_scenes
from training.scenes.solids.sign import shade_board

PIXEL_ART_CELLS = 32
SKETCH_LINE = 0.006  # half the width of a pencil line, as a fraction of the image
_PAPER = (0.96, 0.95, 0.91)


def render(
    scenes: Sequence[Scene],
    size: int,
    *,
    crop: int | None = None,
    corners: Tensor | None = None,
    device: str = "cpu",
) -> Tensor:
    """Render scenes at `size`² pixels: `[B, 3, size, size]` in [-1, 1].

    With `crop` only a window of `crop`² pixels is rendered. Its upper left pixel is at `corners`
    `[B, 2]` (x, y)."""
    batch = batch_scenes(scenes, torch.device(device))
    width = crop or size
    corners = torch.zeros(len(scenes), 2) if corners is None else corners
    pixel = torch.arange(width, dtype=torch.float32, device=device)
    v, u = torch.meshgrid(pixel, pixel, indexing="ij")
    offset = corners.to(device, torch.float32)[:, None]
    pixels = torch.stack((u, v), -1).reshape(1, -1, 2) + offset  # (B, R, 2)
    colour, key = _shade(batch, (pixels + 0.5) / size)
    is_edge = _find_edges(key.view(-1, width, width)).flatten(1)  # (B, R)
    colour = _antialias(batch, colour, is_edge, pixels, size)
    return colour.clamp(0, 1).mul(2).sub(1).transpose(1, 2).reshape(-1, 3, width, width)


def _antialias(
    batch: SceneBatch, colour: Tensor, is_edge: Tensor, pixels: Tensor, size: int
) -> Tensor:
    """Render edge pixels with four rotated samples each; the others keep their colour."""
    count = min(int(is_edge.sum(1).max()), is_edge.shape[1])
    if not count:
        return colour
    order = is_edge.float().argsort(dim=1, descending=True, stable=True)[:, :count]  # (B, K)
    at = pixels.gather(1, order[..., None].expand(-1, -1, 2))
    offsets = torch.tensor(
        [(0.375, 0.125), (0.875, 0.375), (0.125, 0.625), (0.625, 0.875)], device=colour.device
    )
    samples = ((at[:, :, None] + offsets) / size).flatten(1, 2)  # (B, 4K, 2)
    fine = _shade(batch, samples)[0].unflatten(1, (count, 4)).mean(2)
    # An image with fewer edges than its batch has spare places. Those keep their colour, so that an
    # image does not depend on its batch.
    places = order[..., None].expand(-1, -1, 3)
    fine = torch.where(is_edge.gather(1, order)[..., None], fine, colour.gather(1, places))
    return colour.scatter(1, places, fine)


def _find_edges(key: Tensor) -> Tensor:
    """Return where one of a pixel's four neighbours has another key `[B, H, W]`."""
    edge = torch.zeros_like(key, dtype=torch.bool)
    across = key[:, :, 1:] != key[:, :, :-1]
    down = key[:, 1:] != key[:, :-1]
    edge[:, :, 1:] |= across
    edge[:, :, :-1] |= across
    edge[:, 1:] |= down
    edge[:, :-1] |= down
    return edge


def _shade(batch: SceneBatch, uv: Tensor) -> tuple[Tensor, Tensor]:
    """Return the colour of rays through `uv` `[B, R, 2]`, and a key of the region they hit.

    Colours `[B, R, 3]` are in 0..1, approximately. Keys `[B, R]` differ between regions."""
    pixel_art = batch.style == 1
    sketch = batch.style == 2
    if pixel_art.any():
        cells = ((uv * PIXEL_ART_CELLS).floor() + 0.5) / PIXEL_ART_CELLS
        uv = torch.where(pixel_art[:, None, None], cells, uv)
    direction = camera_rays(uv)
    origin = torch.tensor(CAMERA, device=uv.device).expand_as(direction)
    t, target = find_nearest(batch, origin, direction)
    point = origin + t.clamp(max=MAX_FLOOR_DISTANCE)[..., None] * direction
    light = batch.light[:, :, None]  # (B, 5, 1, 3)
    to_light = light[:, 0].expand_as(direction)
    is_object = (target >= 0)[..., None]
    is_floor = (target == FLOOR)[..., None]
    is_board = (target == BOARD)[..., None]

    # The surface: normal, own colour, and whether light reaches it.
    normal = _normals(batch, target, point)
    floor, floor_key = _shade_floor(batch.place, point)
    board, board_key = shade_board(batch.letters, batch.letter_count, point)
    own_colour = _pick(batch.colour, target)
    albedo = torch.where(is_object, own_colour, torch.where(is_board, board, floor))
    blocked = find_nearest(batch, point + 1e-3 * normal, to_light, shadow=True)[1] != SKY
    facing = (normal * to_light).sum(-1, keepdim=True).clamp(min=0)
    lit = facing * ~blocked[..., None]
    colour = albedo * (light[:, 2] + light[:, 1] * lit)

    # Shiny objects mirror some of the sky and the floor, and have a highlight.
    mirrored = direction - 2 * (direction * normal).sum(-1, keepdim=True) * normal
    sky = _shade_sky(light, direction)
    glossy = (_pick(batch.shiny, target) * is_object[..., 0])[..., None]
    around = torch.where(mirrored[..., 2:] > 0, _shade_sky(light, mirrored), 0.5 * light[:, 3])
    highlight = (mirrored * to_light).sum(-1, keepdim=True).clamp(min=0) ** 40 * ~blocked[..., None]
    shiny = 0.82 * colour + 0.18 * around + 0.9 * highlight * light[:, 1]
    colour = torch.where(glossy > 0, shiny, colour)

    # Fog hides the floor's far edge; the sky is behind everything.
    distance = (t.clamp(max=MAX_FLOOR_DISTANCE) - 9.0).clamp(min=0)
    fog = 1 - torch.exp(-((distance / 16.0) ** 2))[..., None]
    colour = torch.where(is_floor, colour * (1 - fog) + light[:, 3] * fog, colour)
    colour = torch.where((target == SKY)[..., None], sky, colour)

    # The key of a region: what is hit, in light or shadow, and which side, tile or letter of it.
    key = (
        target * 64
        + blocked * 32
        + torch.where(is_floor[..., 0], floor_key, 0)
        + torch.where(is_board[..., 0], board_key, 0)
    )
    side = (normal[..., 0] * 2).round() + 3 * (normal[..., 2] * 2).round()
    has_sides = is_object[..., 0] & (_pick(batch.shape, target) != SHAPES.index("sphere"))
    key = key * 32 + torch.where(has_sides, side, 0).long()

    if pixel_art.any():
        colour = torch.where(pixel_art[:, None, None], (colour.clamp(0, 1) * 5).round() / 5, colour)
    if sketch.any():
        drawing = _shade_sketch(batch, uv, target, albedo, facing, board_key)
        colour = torch.where(sketch[:, None, None], drawing, colour)
    return colour, key


def _pick(values: Tensor, target: Tensor) -> Tensor:
    """Return the values `[B, N, …]` of the objects that rays hit, `[B, R, …]`."""
    index = target.clamp(min=0)
    index = index.view(*index.shape, *[1] * (values.dim() - 2))
    return values.gather(1, index.expand(*target.shape, *values.shape[2:]))


def _normals(batch: SceneBatch, target: Tensor, point: Tensor) -> Tensor:
    """Return unit normals `[B, R, 3]` of what rays hit: objects, the board or the floor."""
    local = (point - _pick(batch.foot, target)) / _pick(batch.radius, target)[..., None]
    normal = surface_normals(_pick(batch.shape, target), local, _pick(batch.yaw, target))
    up = torch.tensor((0.0, 0.0, 1.0), device=point.device)
    to_camera = torch.tensor((0.0, -1.0, 0.0), device=point.device)
    flat = torch.where((target == BOARD)[..., None], to_camera, up)
    return torch.where((target >= 0)[..., None], normal, flat)


def _shade_sky(light: Tensor, direction: Tensor) -> Tensor:
    height = (direction[..., 2:].clamp(min=0) * 2.5).clamp(max=1)
    return light[:, 3] * (1 - height) + light[:, 4] * height


def _shade_floor(place: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    """Return the floor's colour at points `[B, R, 3]`, and a key of its tiles."""
    x = point[..., 0]
    y = point[..., 1]
    ripple = torch.sin(2.1 * x + 1.3 * torch.sin(1.7 * y)) * torch.sin(
        1.9 * y + 0.8 * torch.sin(2.3 * x)
    )
    blades = torch.sin(9 * x + 4 * torch.sin(3 * y)) * torch.sin(8 * y + 3 * torch.sin(4 * x))
    plank = (y / 0.9).floor()
    tile = ((x / 1.4).floor() + (y / 1.4).floor()) % 2
    shade = torch.stack(
        (
            1 + 0.10 * ripple + 0.07 * blades,
            1 + 0.06 * torch.sin(3.0 * y + 0.6 * torch.sin(1.5 * x)),
            1 + 0.03 * ripple,
            0.88 + 0.12 * torch.sin(plank * 12.9898) + 0.03 * torch.sin(3 * x + plank * 5),
            0.35 + 0.65 * tile,
        ),
        -1,
    )  # (B, R, 5)
    base = torch.tensor(
        (
            (0.36, 0.47, 0.20),
            (0.80, 0.68, 0.46),
            (0.86, 0.89, 0.95),
            (0.52, 0.34, 0.19),
            (0.72, 0.72, 0.74),
        ),
        device=point.device,
    )
    index = place[:, None, None].expand(*x.shape, 1)
    tiles = torch.where(
        place[:, None] == 4, tile, torch.where(place[:, None] == 3, plank % 2, torch.zeros_like(x))
    )
    return base[place][:, None] * shade.gather(2, index), tiles.long()


def _shade_sketch(
    batch: SceneBatch, uv: Tensor, target: Tensor, albedo: Tensor, facing: Tensor, ink: Tensor
) -> Tensor:
    """Return coloured pencil on paper: outlines at changes of target, hatching in faint light."""
    outline = torch.zeros_like(target, dtype=torch.bool)
    for dx, dy in (
        (SKETCH_LINE, 0.0),
        (-SKETCH_LINE, 0.0),
        (0.0, SKETCH_LINE),
        (0.0, -SKETCH_LINE),
    ):
        direction = camera_rays(uv + torch.tensor((dx, dy), device=uv.device))
        origin = torch.tensor(CAMERA, device=uv.device).expand_as(direction)
        outline |= find_nearest(batch, origin, direction)[1] != target
    stripes = torch.sin((uv[..., :1] + uv[..., 1:]) * 2 * math.pi * 22) * 0.5 + 0.5
    paper = torch.tensor(_PAPER, device=uv.device)
    is_object = (target >= 0)[..., None]
    strength = torch.where(is_object, 0.55 + 0.35 * stripes * (1 - facing), 0.0)
    colour = paper * (1 - strength) + albedo * strength
    is_dark = outline | ((target == BOARD) & (ink == 1))
    return torch.where(is_dark[..., None], torch.full_like(colour, 0.18), colour)
