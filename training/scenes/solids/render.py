"""Draws scenes: a batched ray tracer with closed forms, in plain tensor maths, at any resolution or crop.

Spheres, cubes, cylinders and cones on a floor, one distant light with a hard shadow, highlights, fog toward a sky, a
sign board, and three styles. Everything is a function of where a ray goes, so a crop of a large image costs
only its own rays, and a scene looks the same at 64² and at 1024².
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.scenes.glyphs import GLYPH_HEIGHT, GLYPH_WIDTH, glyphs
from training.scenes.solids.scene import COLOURS, MAX_WORD, PLACES, SHAPES, STYLES, Scene

FAR = 1e6
CAMERA = (0.0, -8.0, 3.4)
LOOK_AT = (0.0, 0.0, 1.15)
FIELD_OF_VIEW = math.radians(34)  # vertical and horizontal: images are square
PIXEL_ART_CELLS = 32
SKETCH_LINE = 0.006  # half the width of a pencil line, as a fraction of the image
# what a ray hit, beside the indices of things
FLOOR = -1
BOARD = -2
SKY = -3

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
_PAPER = (0.96, 0.95, 0.91)


@dataclass(frozen=True)
class _Batch:
    """Scenes as tensors. M things in all, laid out as [B, N] with padding; `which` tells the thing's image."""

    which: Tensor  # [M] image of each thing
    slot: Tensor  # [M] place of each thing among its image's
    shape: Tensor  # [B, N] index into SHAPES, -1 for none
    foot: Tensor  # [B, N, 3]
    radius: Tensor  # [B, N]
    yaw: Tensor  # [B, N]
    colour: Tensor  # [B, N, 3]
    shiny: Tensor  # [B, N]
    place: Tensor  # [B]
    style: Tensor  # [B]
    light: Tensor  # [B, 5, 3] direction, colour, ambient, horizon, zenith
    letters: Tensor  # [B, MAX_WORD] 0-25, -1 for none
    letter_count: Tensor  # [B] 0 where there is no sign


def _batch(scenes: Sequence[Scene], device: torch.device) -> _Batch:
    count = max(1, *(len(s.things) for s in scenes))

    def table(rows: list[list[list[float]]], width: int, fill: float = 0.0) -> Tensor:
        padded = [row + [[fill] * width] * (count - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.float32, device=device)

    things = [s.things for s in scenes]
    where = [(b, n) for b, row in enumerate(things) for n in range(len(row))] or [(0, 0)]
    words = [[ord(c) - 65 for c in s.word or ""] for s in scenes]
    light = torch.tensor([_LIGHT[s.time] for s in scenes], device=device)
    light[:, 0] = F.normalize(light[:, 0], dim=-1)
    return _Batch(
        which=torch.tensor([b for b, _ in where], device=device),
        slot=torch.tensor([n for _, n in where], device=device),
        shape=table([[[SHAPES.index(t.shape)] for t in row] for row in things], 1, -1.0)[
            ..., 0
        ].long(),
        foot=table([[[t.x, t.y, t.z] for t in row] for row in things], 3),
        radius=table([[[t.radius] for t in row] for row in things], 1, 1.0)[..., 0],
        yaw=table([[[t.yaw] for t in row] for row in things], 1)[..., 0],
        colour=table([[list(COLOURS[t.colour]) for t in row] for row in things], 3),
        shiny=table([[[float(t.material == "shiny")] for t in row] for row in things], 1)[..., 0],
        place=torch.tensor([PLACES.index(s.place) for s in scenes], device=device),
        style=torch.tensor([STYLES.index(s.style) for s in scenes], device=device),
        light=light,
        letters=torch.tensor([w + [-1] * (MAX_WORD - len(w)) for w in words], device=device),
        letter_count=torch.tensor([len(w) for w in words], device=device),
    )


def render(
    scenes: Sequence[Scene],
    size: int,
    *,
    crop: int | None = None,
    corners: Tensor | None = None,
    device: str = "cpu",
) -> Tensor:
    """Draw each scene at `size`² pixels: `[B, 3, size, size]` floats in [-1, 1].

    With `crop` only a window of `crop`² pixels is cast, its upper left pixel at `corners` `[B, 2]` (x, y)."""
    batch = _batch(scenes, torch.device(device))
    width = crop or size
    corners = torch.zeros(len(scenes), 2) if corners is None else corners
    pixel = torch.arange(width, dtype=torch.float32, device=device)
    v, u = torch.meshgrid(pixel, pixel, indexing="ij")
    base = (
        torch.stack((u, v), -1).reshape(1, -1, 2) + corners.to(device, torch.float32)[:, None]
    )  # (B, R, 2) pixels
    colour, key = _shade(batch, (base + 0.5) / size)
    # Antialias only where a neighbour shows something else: four rotated samples a pixel, the densest quarter of them.
    busy = _edges(key.view(-1, width, width)).flatten(1)  # (B, R)
    most = min(int(busy.sum(1).max()), busy.shape[1])
    if most:
        order = busy.float().argsort(dim=1, descending=True, stable=True)[:, :most]  # (B, K)
        at = base.gather(1, order[..., None].expand(-1, -1, 2))
        offsets = torch.tensor(
            [(0.375, 0.125), (0.875, 0.375), (0.125, 0.625), (0.625, 0.875)], device=device
        )
        samples = ((at[:, :, None] + offsets) / size).flatten(1, 2)  # (B, 4K, 2)
        fine = _shade(batch, samples)[0].unflatten(1, (most, 4)).mean(2)
        # A calmer image than its batch has places left over: those stay as they are, whatever is drawn beside it.
        fine = torch.where(
            busy.gather(1, order)[..., None],
            fine,
            colour.gather(1, order[..., None].expand(-1, -1, 3)),
        )
        colour = colour.scatter(1, order[..., None].expand(-1, -1, 3), fine)
    return colour.clamp(0, 1).mul(2).sub(1).transpose(1, 2).reshape(-1, 3, width, width)


def _edges(key: Tensor) -> Tensor:
    """`[B, H, W]` what each pixel shows -> True where one of its four neighbours shows something else."""
    edge = torch.zeros_like(key, dtype=torch.bool)
    across = key[:, :, 1:] != key[:, :, :-1]
    down = key[:, 1:] != key[:, :-1]
    edge[:, :, 1:] |= across
    edge[:, :, :-1] |= across
    edge[:, 1:] |= down
    edge[:, :-1] |= down
    return edge


def _directions(uv: Tensor) -> Tensor:
    """Where on the image (`[…, 2]` in 0..1, y down) -> unit directions of the camera's rays."""
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


def _shade(batch: _Batch, uv: Tensor) -> tuple[Tensor, Tensor]:
    """Colours `[B, R, 3]` in 0..1 (about) of the rays through `uv` `[B, R, 2]`, and a key that differs between regions."""
    pixel_art = batch.style == 1
    sketch = batch.style == 2
    if pixel_art.any():
        cells = ((uv * PIXEL_ART_CELLS).floor() + 0.5) / PIXEL_ART_CELLS
        uv = torch.where(pixel_art[:, None, None], cells, uv)
    direction = _directions(uv)
    origin = torch.tensor(CAMERA, device=uv.device).expand_as(direction)
    t, hit = _nearest(batch, origin, direction)
    point = origin + t.clamp(max=60.0)[..., None] * direction
    light = batch.light[:, :, None]  # (B, 5, 1, 3)
    to_light = light[:, 0].expand_as(direction)
    index = hit.clamp(min=0)

    def pick(values: Tensor) -> Tensor:
        """Each ray's own of values `[B, N, …]` a thing -> `[B, R, …]`."""
        return values.gather(
            1,
            index.view(*index.shape, *[1] * (values.dim() - 2)).expand(
                *index.shape, *values.shape[2:]
            ),
        )

    is_thing = (hit >= 0)[..., None]
    is_floor = (hit == FLOOR)[..., None]
    is_board = (hit == BOARD)[..., None]

    normal = _normals(
        pick(batch.shape),
        (point - pick(batch.foot)) / pick(batch.radius)[..., None],
        pick(batch.yaw),
    )
    up = torch.tensor((0.0, 0.0, 1.0), device=uv.device)
    normal = torch.where(
        is_thing,
        normal,
        torch.where(is_board, torch.tensor((0.0, -1.0, 0.0), device=uv.device), up),
    )
    floor, floor_key = _floor(batch.place, point)
    board, board_key = _board(batch, point)
    albedo = torch.where(is_thing, pick(batch.colour), torch.where(is_board, board, floor))
    blocked = _nearest(batch, point + 1e-3 * normal, to_light, shadow=True)[1] != SKY
    facing = (normal * to_light).sum(-1, keepdim=True).clamp(min=0)
    lit = facing * ~blocked[..., None]
    colour = albedo * (light[:, 2] + light[:, 1] * lit)

    # Shiny things mirror a little of the sky and the floor, and have a highlight.
    mirrored = direction - 2 * (direction * normal).sum(-1, keepdim=True) * normal
    sky = _sky(light, direction)
    glossy = (pick(batch.shiny) * is_thing[..., 0])[..., None]
    around = torch.where(mirrored[..., 2:] > 0, _sky(light, mirrored), 0.5 * light[:, 3])
    highlight = (mirrored * to_light).sum(-1, keepdim=True).clamp(min=0) ** 40 * ~blocked[..., None]
    colour = torch.where(
        glossy > 0, 0.82 * colour + 0.18 * around + 0.9 * highlight * light[:, 1], colour
    )
    fog = 1 - torch.exp(-(((t.clamp(max=60.0) - 9.0).clamp(min=0) / 16.0) ** 2))[..., None]
    colour = torch.where(is_floor, colour * (1 - fog) + light[:, 3] * fog, colour)
    colour = torch.where((hit == SKY)[..., None], sky, colour)
    key = (
        hit * 64
        + blocked * 32
        + torch.where(is_floor[..., 0], floor_key, 0)
        + torch.where(is_board[..., 0], board_key, 0)
    )
    side = (normal[..., 0] * 2).round() + 3 * (normal[..., 2] * 2).round()
    key = key * 32 + torch.where(is_thing[..., 0] & (pick(batch.shape) != 0), side, 0).long()

    if pixel_art.any():
        colour = torch.where(pixel_art[:, None, None], (colour.clamp(0, 1) * 5).round() / 5, colour)
    if sketch.any():
        colour = torch.where(
            sketch[:, None, None], _sketch(batch, uv, hit, albedo, facing, board_key), colour
        )
    return colour, key


def _sky(light: Tensor, direction: Tensor) -> Tensor:
    height = (direction[..., 2:].clamp(min=0) * 2.5).clamp(max=1)
    return light[:, 3] * (1 - height) + light[:, 4] * height


def _floor(place: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    """Colour of the floor at points `[B, R, 3]`, and a key of its tiles."""
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


# the board's plane, its rim, and a pixel of its letters
_BOARD_Y = 0.6
_BOARD_FOOT = 1.35
_BOARD_TOP = 2.75
_CELL = 0.125


def _board_half(letter_count: Tensor) -> Tensor:
    """Half the board's width for words of so many letters; 0 for none."""
    return torch.where(
        letter_count > 0, (letter_count * (GLYPH_WIDTH + 1) + 1) * _CELL / 2, torch.zeros(())
    )


def _board(batch: _Batch, point: Tensor) -> tuple[Tensor, Tensor]:
    """Colour of the sign board at points on it, and a key of its ink."""
    half = _board_half(batch.letter_count)[:, None]
    column = ((point[..., 0] + half) / _CELL - 1).floor().long()
    top = (_BOARD_TOP + _BOARD_FOOT) / 2 + GLYPH_HEIGHT * _CELL / 2
    row = ((top - point[..., 2]) / _CELL).floor().long()
    letter_at = column.div(GLYPH_WIDTH + 1, rounding_mode="floor")
    within = column % (GLYPH_WIDTH + 1)
    letter = batch.letters.gather(1, letter_at.clamp(0, MAX_WORD - 1))
    valid = (
        (column >= 0)
        & (letter_at < batch.letter_count[:, None])
        & (within < GLYPH_WIDTH)
        & (row >= 0)
        & (row < GLYPH_HEIGHT)
    )
    ink = glyphs().to(point.device)[
        letter.clamp(min=0), row.clamp(0, GLYPH_HEIGHT - 1), within.clamp(max=GLYPH_WIDTH - 1)
    ]
    ink = ink & valid
    post = point[..., 2] < _BOARD_FOOT
    tone = torch.where(ink, 0.05, torch.where(post, 0.30, 0.92))
    return tone[..., None].expand(-1, -1, 3), ink.long() + 2 * post.long()


def _sketch(
    batch: _Batch, uv: Tensor, hit: Tensor, albedo: Tensor, facing: Tensor, ink: Tensor
) -> Tensor:
    """Coloured pencil on paper: outlines where what a ray hits changes nearby, hatching where the light is faint."""
    outline = torch.zeros_like(hit, dtype=torch.bool)
    for dx, dy in (
        (SKETCH_LINE, 0.0),
        (-SKETCH_LINE, 0.0),
        (0.0, SKETCH_LINE),
        (0.0, -SKETCH_LINE),
    ):
        direction = _directions(uv + torch.tensor((dx, dy), device=uv.device))
        origin = torch.tensor(CAMERA, device=uv.device).expand_as(direction)
        outline |= _nearest(batch, origin, direction)[1] != hit
    stripes = torch.sin((uv[..., :1] + uv[..., 1:]) * 2 * math.pi * 22) * 0.5 + 0.5
    paper = torch.tensor(_PAPER, device=uv.device)
    on_thing = (hit >= 0)[..., None]
    strength = torch.where(on_thing, 0.55 + 0.35 * stripes * (1 - facing), 0.0)
    colour = paper * (1 - strength) + albedo * strength
    written = (hit == BOARD) & (ink == 1)
    return torch.where((outline | written)[..., None], torch.full_like(colour, 0.18), colour)


def _nearest(
    batch: _Batch, origin: Tensor, direction: Tensor, *, shadow: bool = False
) -> tuple[Tensor, Tensor]:
    """First hit of rays `[B, R, 3]`: distance (FAR for none) and what (a thing's slot, FLOOR, BOARD or SKY).

    Shadow rays ask only for things and the board: the floor cannot stand before a light above it."""
    images, rays = origin.shape[:2]
    distance = origin.new_full((images, batch.shape.shape[1], rays), FAR)
    kinds = batch.shape[batch.which, batch.slot]
    for kind, intersect in enumerate((_sphere, _cube, _cylinder, _cone)):
        chosen = (kinds == kind).nonzero()[:, 0]
        if not len(chosen):
            continue
        b = batch.which[chosen]
        n = batch.slot[chosen]
        radius = batch.radius[b, n][:, None]
        o = ((origin[b] - batch.foot[b, n][:, None]) / radius[..., None]).unbind(-1)
        d = direction[b].unbind(-1)
        if kind == 1:
            o = _turn(o, batch.yaw[b, n])
            d = _turn(d, batch.yaw[b, n])
        t = intersect(o, d)
        distance[b, n] = torch.where(t < FAR, t * radius, FAR)
    t, hit = distance.min(1)
    hit = torch.where(t < FAR, hit, SKY)
    if bool((batch.letter_count > 0).any()):
        along = (_BOARD_Y - origin[..., 1]) / direction[..., 1]
        x, z = (origin[..., k] + along * direction[..., k] for k in (0, 2))
        half = _board_half(batch.letter_count)[:, None]
        on_board = (x.abs() < half) & (z > _BOARD_FOOT) & (z < _BOARD_TOP)
        on_post = (x.abs() < 0.09) & (z > 0) & (z <= _BOARD_FOOT) & (half > 0)
        nearer = (on_board | on_post) & (along > 1e-3) & (along < t)
        t = torch.where(nearer, along, t)
        hit = torch.where(nearer, BOARD, hit)
    if not shadow:
        down = torch.where(direction[..., 2] < -1e-4, -origin[..., 2] / direction[..., 2], FAR)
        nearer = (down > 0) & (down < t) & (down < 60.0)
        t = torch.where(nearer, down, t)
        hit = torch.where(nearer, FLOOR, hit)
    return t, hit


Coordinates = tuple[Tensor, ...]
# in radii
_CUBE_HALF = 0.8
_CYLINDER_RADIUS = 0.8
_CYLINDER_HEIGHT = 1.8
_CONE_HEIGHT = 2.0


def _turn(v: Coordinates, yaw: Tensor) -> Coordinates:
    """Into the frame of a thing turned by `yaw` about the vertical."""
    c = yaw.cos()[:, None]
    s = yaw.sin()[:, None]
    return c * v[0] + s * v[1], -s * v[0] + c * v[1], v[2]


def _roots(a: Tensor, half_b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Roots of a·t² + 2·half_b·t + c, ordered; nan where there are none."""
    root = (half_b * half_b - a * c).sqrt()
    first = (-half_b - root) / a
    second = (-half_b + root) / a
    return torch.minimum(first, second), torch.maximum(first, second)


def _ahead(t: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid & (t > 1e-3), t, FAR)  # nan compares false


def _sphere(o: Coordinates, d: Coordinates) -> Tensor:
    z = o[2] - 1
    near, _ = _roots(
        torch.ones_like(z), o[0] * d[0] + o[1] * d[1] + z * d[2], o[0] ** 2 + o[1] ** 2 + z * z - 1
    )
    return _ahead(near, near == near)


def _cube(o: Coordinates, d: Coordinates) -> Tensor:
    enter = torch.full_like(o[0], -FAR)
    leave = torch.full_like(o[0], FAR)
    for axis, centre in enumerate((0.0, 0.0, _CUBE_HALF)):
        inverse = 1 / torch.where(d[axis].abs() < 1e-9, 1e-9, d[axis])
        one = (centre - _CUBE_HALF - o[axis]) * inverse
        other = (centre + _CUBE_HALF - o[axis]) * inverse
        enter = torch.maximum(enter, torch.minimum(one, other))
        leave = torch.minimum(leave, torch.maximum(one, other))
    return _ahead(enter, enter < leave)


def _cap(o: Coordinates, d: Coordinates, height: float, radius: float) -> Tensor:
    t = (height - o[2]) / torch.where(d[2].abs() < 1e-9, 1e-9, d[2])
    x = o[0] + t * d[0]
    y = o[1] + t * d[1]
    return _ahead(t, x * x + y * y < radius * radius)


def _cylinder(o: Coordinates, d: Coordinates) -> Tensor:
    a = (d[0] ** 2 + d[1] ** 2).clamp(min=1e-9)
    near, _ = _roots(a, o[0] * d[0] + o[1] * d[1], o[0] ** 2 + o[1] ** 2 - _CYLINDER_RADIUS**2)
    z = o[2] + near * d[2]
    side = _ahead(near, (z > 0) & (z < _CYLINDER_HEIGHT))
    return torch.minimum(
        side,
        torch.minimum(
            _cap(o, d, _CYLINDER_HEIGHT, _CYLINDER_RADIUS), _cap(o, d, 0.0, _CYLINDER_RADIUS)
        ),
    )


def _cone(o: Coordinates, d: Coordinates) -> Tensor:
    slope = 1 / _CONE_HEIGHT**2  # (radius / height)², for a foot of radius 1
    z = o[2] - _CONE_HEIGHT
    a = d[0] ** 2 + d[1] ** 2 - slope * d[2] ** 2
    a = torch.where(a.abs() < 1e-9, 1e-9, a)
    roots = _roots(
        a, o[0] * d[0] + o[1] * d[1] - slope * z * d[2], o[0] ** 2 + o[1] ** 2 - slope * z * z
    )
    sides = [_ahead(t, (o[2] + t * d[2] > 0) & (o[2] + t * d[2] < _CONE_HEIGHT)) for t in roots]
    return torch.minimum(torch.minimum(*sides), _cap(o, d, 0.0, 1.0))


def _normals(shape: Tensor, p: Tensor, yaw: Tensor) -> Tensor:
    """Outward unit normals at surface points `p` `[B, R, 3]`, in radii from the thing's foot."""
    x, y, z = p.unbind(-1)
    zero = torch.zeros_like(x)
    sphere = torch.stack((x, y, z - 1), -1)
    c = yaw.cos()
    s = yaw.sin()
    local = torch.stack((c * x + s * y, -s * x + c * y, z - _CUBE_HALF), -1)
    axis = F.one_hot(local.abs().argmax(-1), 3) * local.sign()
    cube = torch.stack(
        (c * axis[..., 0] - s * axis[..., 1], s * axis[..., 0] + c * axis[..., 1], axis[..., 2]), -1
    )
    cap = (z > _CYLINDER_HEIGHT - 1e-3) | (z < 1e-3)
    cylinder = torch.where(
        cap[..., None],
        torch.stack((zero, zero, (z > 0.5) * 2.0 - 1), -1),
        torch.stack((x, y, zero), -1),
    )
    ring = (x * x + y * y).sqrt()
    cone = torch.where(
        (z < 1e-3)[..., None],
        torch.stack((zero, zero, zero - 1), -1),
        torch.stack((x, y, ring / _CONE_HEIGHT), -1),
    )
    every = torch.stack((sphere, cube, cylinder, cone), 0)
    index = shape.clamp(min=0)[None, ..., None].expand(1, *p.shape)
    return F.normalize(every.gather(0, index)[0], dim=-1)
