"""Where a scene's sprites go."""

from __future__ import annotations

import random
from dataclasses import dataclass

from training.scenes.illustrated.scene import Part, Scene, is_headwear
from training.scenes.illustrated.world import World

# Centres of several things of one kind, by their number.
_GRIDS: dict[int, tuple[tuple[float, float], ...]] = {
    2: ((0.27, 0.5), (0.73, 0.5)),
    3: ((0.28, 0.3), (0.72, 0.3), (0.5, 0.71)),
    4: ((0.28, 0.28), (0.72, 0.28), (0.28, 0.72), (0.72, 0.72)),
    5: ((0.22, 0.25), (0.78, 0.25), (0.5, 0.5), (0.22, 0.77), (0.78, 0.77)),
}
_GRID_SIZE = {2: 0.46, 3: 0.42, 4: 0.42, 5: 0.32}
_RELATED: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "left of": ((0.27, 0.5), (0.73, 0.5)),
    "right of": ((0.73, 0.5), (0.27, 0.5)),
    "above": ((0.5, 0.26), (0.5, 0.74)),
    "below": ((0.5, 0.74), (0.5, 0.26)),
}


@dataclass(frozen=True)
class Placement:
    """One sprite in the frame. Its alpha box, not its canvas, is centred and sized; all lengths are
    shares of the frame."""

    row: int  # of the atlas
    x: float  # centre
    y: float
    size: float  # longer side of the alpha box
    colour: str | None = None


def place(world: World, scene: Scene) -> list[Placement]:
    """Return the scene's sprites from back to front."""
    rng = random.Random(f"layout {scene.index} {scene.kind}")

    def jitter(amount: float) -> float:
        return rng.uniform(-amount, amount)

    first = scene.parts[0]
    if scene.kind in ("relation", "several"):
        return _place_several(world, scene, rng)
    if scene.kind == "count":
        size = _GRID_SIZE[scene.count] * rng.uniform(0.92, 1.05)
        return [
            _put(world, scene, first, x + jitter(0.02), y + jitter(0.02), size)
            for x, y in _GRIDS[scene.count]
        ]
    if scene.kind == "worn":
        return _place_worn(world, scene, rng)
    if scene.kind == "holding":
        thing = _put(
            world, scene, first, 0.44 + jitter(0.02), 0.47 + jitter(0.02), rng.uniform(0.74, 0.82)
        )
        item = _put(
            world,
            scene,
            _extra(world, scene),
            0.77 + jitter(0.02),
            0.72 + jitter(0.02),
            rng.uniform(0.36, 0.42),
        )
        return [thing, item]
    if scene.kind == "riding":
        vehicle = _put(
            world,
            scene,
            _extra(world, scene),
            0.5 + jitter(0.02),
            0.72 + jitter(0.015),
            rng.uniform(0.72, 0.8),
        )
        rider = _put(
            world, scene, first, 0.48 + jitter(0.03), 0.32 + jitter(0.02), rng.uniform(0.46, 0.52)
        )
        return [vehicle, rider]
    if scene.kind == "sign":
        return [
            _put(
                world,
                scene,
                first,
                0.5 + jitter(0.02),
                0.36 + jitter(0.01),
                rng.uniform(0.58, 0.66),
            )
        ]
    in_place = scene.time is not None
    size = rng.uniform(0.6, 0.74) if in_place else rng.uniform(0.8, 0.94)
    return [
        _put(
            world,
            scene,
            first,
            0.5 + jitter(0.03),
            (0.56 if in_place else 0.5) + jitter(0.025),
            size,
        )
    ]


def _place_several(world: World, scene: Scene, rng: random.Random) -> list[Placement]:
    if scene.relation in ("in front of", "behind"):
        near, far = scene.parts if scene.relation == "in front of" else scene.parts[::-1]
        side = rng.choice((-1, 1))
        return [
            _put(
                world,
                scene,
                far,
                0.5 + side * 0.14,
                0.38 + rng.uniform(-0.02, 0.02),
                rng.uniform(0.56, 0.62),
            ),
            _put(
                world,
                scene,
                near,
                0.5 - side * 0.12,
                0.64 + rng.uniform(-0.02, 0.02),
                rng.uniform(0.5, 0.56),
            ),
        ]
    centres = _RELATED[scene.relation] if scene.relation else _GRIDS[len(scene.parts)]
    size = 0.46 if len(scene.parts) == 2 else 0.41
    return [
        _put(
            world,
            scene,
            part,
            x + rng.uniform(-0.02, 0.02),
            y + rng.uniform(-0.02, 0.02),
            size * rng.uniform(0.95, 1.05),
        )
        for part, (x, y) in zip(scene.parts, centres, strict=True)
    ]


def _place_worn(world: World, scene: Scene, rng: random.Random) -> list[Placement]:
    part = scene.parts[0]
    assert part.worn is not None
    head = is_headwear(part.worn) and part.worn != "headphone"
    size = rng.uniform(0.68, 0.74) if head else rng.uniform(0.8, 0.9)
    y = 0.6 if head else 0.5
    face = _put(
        world, scene, part, 0.5 + rng.uniform(-0.02, 0.02), y + rng.uniform(-0.015, 0.015), size
    )
    left, top, right, bottom = (float(value) for value in world.boxes[face.row])
    longer = max(right - left, bottom - top)
    width = size * (right - left) / longer
    height = size * (bottom - top) / longer
    upper = face.y - height / 2
    worn = Part(world.index(part.worn))
    if part.worn == "headphone":
        return [
            face,
            _put(world, scene, worn, face.x, upper + 0.42 * height, min(1.0, 1.06 * width)),
        ]
    if head:
        cap = _put(world, scene, worn, face.x, 0.0, 0.62 * width)
        box = world.boxes[cap.row]
        cap_height = (
            cap.size * float(box[3] - box[1]) / max(float(box[2] - box[0]), float(box[3] - box[1]))
        )
        return [
            face,
            _put(
                world, scene, worn, face.x, upper + 0.12 * height - cap_height / 2 + 0.03, cap.size
            ),
        ]
    return [face, _put(world, scene, worn, face.x, upper + 0.45 * height, 0.74 * width)]


def _extra(world: World, scene: Scene) -> Part:
    assert scene.extra is not None
    return Part(world.index(scene.extra))


def _put(world: World, scene: Scene, part: Part, x: float, y: float, size: float) -> Placement:
    return Placement(int(world.atlas.table[part.name, scene.art_set]), x, y, size, part.colour)
