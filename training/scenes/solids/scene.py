"""Scenes of coloured solids: a scene is a pure function of its index.

The scenes resemble CLEVR (Johnson et al. 2017, arXiv 1612.06890), so that caption fidelity can be
counted. Lengths are in world units: a large object is 1.7 wide. x points right, y away from the
camera, z up; the floor is z = 0.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

SHAPES = ("sphere", "cube", "cylinder", "cone")
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.07, 0.07),
    "blue": (0.08, 0.16, 0.85),
    "green": (0.05, 0.58, 0.12),
    "yellow": (0.95, 0.85, 0.05),
    "purple": (0.50, 0.10, 0.65),
    "orange": (0.98, 0.45, 0.02),
    "cyan": (0.05, 0.80, 0.85),
    "white": (0.93, 0.93, 0.93),
}
COLOUR_NAMES = tuple(COLOURS)
SIZES = ("small", "large")
MATERIALS = ("matte", "shiny")
# The position of a pair's first object relative to the second. The reverse is only another caption.
RELATIONS = ("left", "above", "front")
PLACES = ("grass", "sand", "snow", "wood", "checker")
TIMES = ("day", "sunset", "night")
STYLES = ("photo", "pixel art", "pencil sketch")
KINDS = ("one", "pair", "count", "sign")
WORDS = [
    "HELLO",
    "OPEN",
    "STOP",
    "EXIT",
    "CAFE",
    "SHOP",
    "PIZZA",
    "BOOK",
    "FISH",
    "TREE",
    "LOVE",
    "MUSIC",
    "SALE",
    "PARK",
    "HOME",
    "NORTH",
    "SOUTH",
    "EAST",
    "WEST",
    "BEACH",
    "CUBE",
    "CONE",
    "BALL",
    "RED",
    "BLUE",
    "GREEN",
    "WATER",
    "FIRE",
    "STAR",
    "MOON",
    "SUN",
    "ART",
    "ZOO",
    "TAXI",
    "BUS",
    "FARM",
    "LAKE",
    "MILK",
    "JAM",
    "TEA",
]
MAX_WORD = 5  # letters on a sign
MAX_COUNT = 5  # objects in an image
RADIUS = {"small": 0.55, "large": 0.85}
HEIGHT = {"sphere": 2.0, "cube": 1.6, "cylinder": 1.8, "cone": 2.0}  # in radii

Mix = Mapping[str, float]
# Probabilities of each kind of scene, of the photo style ("plain") and of daylight ("day").
# `objects` is for small training budgets: better some scenes right than all blurred.
MIXES: dict[str, dict[str, float]] = {
    "objects": {"one": 0.37, "pair": 0.55, "count": 0.04, "sign": 0.04, "plain": 0.94, "day": 0.7},
    # What is too rare in `objects` to be learned: other styles, counts, evenings. The decoder takes
    # half of each batch from it.
    "rest": {"one": 0.35, "pair": 0.40, "count": 0.25, "sign": 0.0, "plain": 0.25, "day": 0.6},
    "whole": {"one": 0.25, "pair": 0.40, "count": 0.20, "sign": 0.15, "plain": 0.70, "day": 0.4},
}
Split = Literal["train", "test", "compositional"]
# Evaluation scenes start here, far beyond any index of training.
TEST_START = 1 << 40


@dataclass(frozen=True)
class SceneObject:
    """One solid: its attributes, the centre of its base, its yaw in radians and its scale."""

    shape: str
    colour: str
    size: str
    material: str
    x: float = 0.0
    y: float = 0.0
    z: float = 0.0
    yaw: float = 0.0
    scale: float = 1.0

    @property
    def radius(self) -> float:
        return RADIUS[self.size] * self.scale

    @property
    def height(self) -> float:
        return HEIGHT[self.shape] * self.radius


@dataclass(frozen=True)
class Scene:
    """Everything that an image shows.

    `relation` holds between objects[0] and objects[1] of a pair. `word` is on a sign."""

    kind: str
    objects: tuple[SceneObject, ...]
    relation: str | None
    place: str
    time: str
    style: str
    word: str | None = None


def is_compositional(first: SceneObject, relation: str) -> bool:
    """Return whether a (colour, shape, relation) belongs to the compositional split.

    One combination in eleven, by a fixed rule. Training never sees them."""
    code = (
        COLOUR_NAMES.index(first.colour)
        + 2 * SHAPES.index(first.shape)
        + 3 * RELATIONS.index(relation)
    )
    return code % 11 == 7


def draw_scene(index: int, mix: Mix = MIXES["objects"], split: Split = "train") -> Scene:
    """Return the scene of an index, with kinds as frequent as `mix` says.

    An odd index is the near twin of the even one before, with one difference: colours swapped,
    places swapped or one attribute changed. A contrastive batch of consecutive scenes therefore has
    hard negatives. `split`: "train" and "test" exclude the compositional pairs, "compositional" has
    nothing else; the last two count from TEST_START. Raises RuntimeError if the mix has no scene of
    the split."""
    start = 0 if split == "train" else TEST_START
    is_compositional_split = split == "compositional"
    rng = random.Random(start + index // 2)
    for _ in range(1000):
        base = _draw(rng, mix, "pair" if is_compositional_split else None)
        if index % 2:
            base = _make_twin(random.Random(-1 - start - index), base)
        if base.relation is None:
            return base
        if is_compositional(base.objects[0], base.relation) == is_compositional_split:
            return base
    raise RuntimeError(f"the mix {dict(mix)} has no scene for index {index} of split {split!r}")


def _draw(rng: random.Random, mix: Mix, kind: str | None) -> Scene:
    kind = kind or rng.choices(KINDS, [mix[k] for k in KINDS])[0]
    place = rng.choice(PLACES)
    time = "day" if rng.random() < mix["day"] else rng.choice(TIMES[1:])
    style = "photo" if rng.random() < mix["plain"] else rng.choice(STYLES[1:])
    objects: tuple[SceneObject, ...]
    relation = word = None
    if kind == "one":
        objects = (replace(_draw_object(rng), x=rng.uniform(-0.8, 0.8), y=rng.uniform(-0.5, 0.5)),)
    elif kind == "pair":
        relation = rng.choice(RELATIONS)
        objects = place_pair(rng, _draw_object(rng), _draw_object(rng), relation)
    elif kind == "count":
        objects = place_copies(rng, rng.randint(2, MAX_COUNT))
    else:
        word = (
            rng.choice(WORDS)
            if rng.random() < 0.7
            else "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=rng.randint(2, MAX_WORD)))
        )
        neighbour = replace(_draw_object(rng), size="small", x=rng.uniform(-0.9, 0.9), y=-1.5)
        objects = (neighbour,) if rng.random() < 0.5 else ()
    return Scene(kind, objects, relation, place, time, style, word)


def _draw_object(rng: random.Random) -> SceneObject:
    return SceneObject(
        rng.choice(SHAPES),
        rng.choice(COLOUR_NAMES),
        rng.choice(SIZES),
        rng.choice(MATERIALS),
        yaw=rng.uniform(-0.6, 0.6),
    )


def place_pair(
    rng: random.Random, first: SceneObject, second: SceneObject, relation: str
) -> tuple[SceneObject, SceneObject]:
    """Return both objects, placed so that `first` is left of, on top of or in front of `second`."""
    x = rng.uniform(-0.25, 0.25)
    y = rng.uniform(-0.2, 0.2)
    if relation == "left":
        gap = rng.uniform(1.05, 1.3)
        return replace(first, x=x - gap, y=y, z=0.0), replace(
            second, x=x + gap, y=y + rng.uniform(-0.2, 0.2), z=0.0
        )
    if relation == "above":
        return replace(first, x=2 * x, y=y, z=second.height), replace(second, x=2 * x, y=y, z=0.0)
    side = rng.choice((-1.0, 1.0)) * rng.uniform(0.55, 0.75)
    return replace(first, x=x + side, y=-1.6, z=0.0), replace(
        second, x=x - 1.3 * side, y=1.1, z=0.0
    )


def place_copies(rng: random.Random, count: int) -> tuple[SceneObject, ...]:
    """Return `count` (at most 5) equal small objects on different spots."""
    original = replace(_draw_object(rng), size="small")
    spots = [(-1.5, 0.6), (0.0, 0.8), (1.5, 0.6), (-0.8, -1.0), (0.8, -1.0)]
    return tuple(
        replace(original, x=x + rng.uniform(-0.15, 0.15), y=y + rng.uniform(-0.15, 0.15))
        for x, y in rng.sample(spots, count)
    )


def _draw_other(rng: random.Random, value: str, values: tuple[str, ...]) -> str:
    return rng.choice([v for v in values if v != value])


def _make_twin(rng: random.Random, base: Scene) -> Scene:
    """Return `base` with one difference."""
    if base.kind == "pair" and base.relation:
        first, second = base.objects
        change = rng.choice(("colours", "shapes", "places", "one"))
        if change == "colours" and first.colour != second.colour:
            first, second = (
                replace(first, colour=second.colour),
                replace(second, colour=first.colour),
            )
        elif change == "shapes" and first.shape != second.shape:
            first, second = replace(first, shape=second.shape), replace(second, shape=first.shape)
        elif change == "places":
            first, second = second, first
        elif rng.random() < 0.5:
            first = _change_attribute(rng, first)
        else:
            second = _change_attribute(rng, second)
        return replace(base, objects=place_pair(rng, first, second, base.relation))
    if base.kind == "count":
        return replace(base, objects=place_copies(rng, rng.randint(2, MAX_COUNT)))
    if base.kind == "sign" and base.word:
        return replace(base, word="".join(rng.sample(base.word, len(base.word))))
    return replace(base, objects=tuple(_change_attribute(rng, obj) for obj in base.objects))


def _change_attribute(rng: random.Random, original: SceneObject) -> SceneObject:
    what = rng.choices(("colour", "shape", "size", "material"), (3, 3, 1, 1))[0]
    values = {"colour": COLOUR_NAMES, "shape": SHAPES, "size": SIZES, "material": MATERIALS}[what]
    change: dict[str, Any] = {what: _draw_other(rng, getattr(original, what), values)}
    changed: SceneObject = replace(original, **change)
    return changed
