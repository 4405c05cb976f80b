"""Ray intersections and normals of the four solids, in closed form.

Coordinates are in units of the object's radius, relative to the centre of its base. Rays are tuples
of three tensors `[M, R]`: M objects, R rays.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FAR = 1e6  # distance of a ray that hits nothing
Coordinates = tuple[Tensor, ...]
# In radii.
_CUBE_HALF = 0.8
_CYLINDER_RADIUS = 0.8
_CYLINDER_HEIGHT = 1.8
_CONE_HEIGHT = 2.0


def rotate(v: Coordinates, yaw: Tensor) -> Coordinates:
    """Rotate vectors into the frame of an object turned by `yaw` about the vertical."""
    c = yaw.cos()[:, None]
    s = yaw.sin()[:, None]
    return c * v[0] + s * v[1], -s * v[0] + c * v[1], v[2]


def _roots(a: Tensor, half_b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Return the roots of a·t² + 2·half_b·t + c in order, nan for none."""
    root = (half_b * half_b - a * c).sqrt()
    first = (-half_b - root) / a
    second = (-half_b + root) / a
    return torch.minimum(first, second), torch.maximum(first, second)


def _in_front(t: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid & (t > 1e-3), t, FAR)  # nan is not > 1e-3


def hit_sphere(o: Coordinates, d: Coordinates) -> Tensor:
    """Return distances `[M, R]` along rays from `o` in direction `d` to a sphere of radius 1."""
    z = o[2] - 1
    near, _ = _roots(
        torch.ones_like(z), o[0] * d[0] + o[1] * d[1] + z * d[2], o[0] ** 2 + o[1] ** 2 + z * z - 1
    )
    return _in_front(near, near == near)


def hit_cube(o: Coordinates, d: Coordinates) -> Tensor:
    """Return distances `[M, R]` along rays from `o` in direction `d` to a cube."""
    enter = torch.full_like(o[0], -FAR)
    leave = torch.full_like(o[0], FAR)
    for axis, centre in enumerate((0.0, 0.0, _CUBE_HALF)):
        inverse = 1 / torch.where(d[axis].abs() < 1e-9, 1e-9, d[axis])
        one = (centre - _CUBE_HALF - o[axis]) * inverse
        other = (centre + _CUBE_HALF - o[axis]) * inverse
        enter = torch.maximum(enter, torch.minimum(one, other))
        leave = torch.minimum(leave, torch.maximum(one, other))
    return _in_front(enter, enter < leave)


def _cap(o: Coordinates, d: Coordinates, height: float, radius: float) -> Tensor:
    t = (height - o[2]) / torch.where(d[2].abs() < 1e-9, 1e-9, d[2])
    x = o[0] + t * d[0]
    y = o[1] + t * d[1]
    return _in_front(t, x * x + y * y < radius * radius)


def hit_cylinder(o: Coordinates, d: Coordinates) -> Tensor:
    """Return distances `[M, R]` along rays from `o` in direction `d` to an upright cylinder."""
    a = (d[0] ** 2 + d[1] ** 2).clamp(min=1e-9)
    near, _ = _roots(a, o[0] * d[0] + o[1] * d[1], o[0] ** 2 + o[1] ** 2 - _CYLINDER_RADIUS**2)
    z = o[2] + near * d[2]
    side = _in_front(near, (z > 0) & (z < _CYLINDER_HEIGHT))
    return torch.minimum(
        side,
        torch.minimum(
            _cap(o, d, _CYLINDER_HEIGHT, _CYLINDER_RADIUS), _cap(o, d, 0.0, _CYLINDER_RADIUS)
        ),
    )


def hit_cone(o: Coordinates, d: Coordinates) -> Tensor:
    """Return distances `[M, R]` along rays from `o` in direction `d` to an upright cone."""
    slope = 1 / _CONE_HEIGHT**2  # (radius / height)², for a base of radius 1
    z = o[2] - _CONE_HEIGHT
    a = d[0] ** 2 + d[1] ** 2 - slope * d[2] ** 2
    a = torch.where(a.abs() < 1e-9, 1e-9, a)
    roots = _roots(
        a, o[0] * d[0] + o[1] * d[1] - slope * z * d[2], o[0] ** 2 + o[1] ** 2 - slope * z * z
    )
    sides = [_in_front(t, (o[2] + t * d[2] > 0) & (o[2] + t * d[2] < _CONE_HEIGHT)) for t in roots]
    return torch.minimum(torch.minimum(*sides), _cap(o, d, 0.0, 1.0))


def surface_normals(shape: Tensor, p: Tensor, yaw: Tensor) -> Tensor:
    """Return outward unit normals `[B, R, 3]` at surface points `p` `[B, R, 3]`."""
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
    normals = torch.stack((sphere, cube, cylinder, cone), 0)
    index = shape.clamp(min=0)[None, ..., None].expand(1, *p.shape)
    return F.normalize(normals.gather(0, index)[0], dim=-1)
