"""What stands in one image of the drawn world: a scene is a pure function of an integer.

The world is a small one in the manner of CLEVR (Johnson et al. 2017, arXiv 1612.06890), made so that caption
fidelity can be counted instead of looked at. Lengths are in world units: a large object is 1.7 wide, x points
right, y away from the camera, z up, the floor is z = 0.
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
# The first object of a pair stands so towards the second; the other way round is only another caption.
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
# How often each kind of scene is drawn. `objects` is the mix for small training budgets: better a part of the
# world right than all of it blurred.
MIXES: dict[str, dict[str, float]] = {
    "objects": {"one": 0.37, "pair": 0.55, "count": 0.04, "sign": 0.04, "plain": 0.94, "day": 0.7},
    # What `objects` has too little of to be learned: other styles, counts, evenings. Half of each of the decoder's batches.
    "rest": {"one": 0.35, "pair": 0.40, "count": 0.25, "sign": 0.0, "plain": 0.25, "day": 0.6},
    "whole": {"one": 0.25, "pair": 0.40, "count": 0.20, "sign": 0.15, "plain": 0.70, "day": 0.4},
}
Split = Literal["train", "fresh", "kept back"]
# Scenes for evaluation start here, far beyond any index that training reaches.
FRESH_START = 1 << 40


@dataclass(frozen=True)
class Thing:
    """One object: what a caption can say of it, and where it stands (centre of its foot, radius, yaw in radians)."""

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
    """All that an image shows. `relation` holds between things[0] and things[1] of a pair, `word` is a sign's."""

    kind: str
    things: tuple[Thing, ...]
    relation: str | None
    place: str
    time: str
    style: str
    word: str | None = None


def kept_back(first: Thing, relation: str) -> bool:
    """True for the (colour, shape, relation) combinations that training never sees: one in eleven, by a fixed rule."""
    code = (
        COLOUR_NAMES.index(first.colour)
        + 2 * SHAPES.index(first.shape)
        + 3 * RELATIONS.index(relation)
    )
    return code % 11 == 7


def scene(index: int, mix: Mix = MIXES["objects"], split: Split = "train") -> Scene:
    """The scene with this index. Odd indices are the near twin of the even one before: one thing about it differs
    (colours swapped, places swapped, one attribute changed), so that a contrastive batch of consecutive
    scenes holds its own hard negatives. `split`: "train" leaves the kept-back pairs out, "fresh" does too but counts
    from FRESH_START, "kept back" draws only such pairs."""
    start = 0 if split == "train" else FRESH_START
    rng = random.Random(start + index // 2)
    for _ in range(1000):
        base = _draw(rng, mix, "pair" if split == "kept back" else None)
        if index % 2:
            base = _twin(random.Random(-1 - start - index), base)
        if base.relation is None or kept_back(base.things[0], base.relation) == (
            split == "kept back"
        ):
            return base
    raise RuntimeError(
        f"no scene found for index {index} of split {split!r}: the mix {dict(mix)} leaves nothing to draw"
    )


def _draw(rng: random.Random, mix: Mix, kind: str | None) -> Scene:
    kind = kind or rng.choices(KINDS, [mix[k] for k in KINDS])[0]
    place = rng.choice(PLACES)
    time = "day" if rng.random() < mix["day"] else rng.choice(TIMES[1:])
    style = "photo" if rng.random() < mix["plain"] else rng.choice(STYLES[1:])
    things: tuple[Thing, ...]
    relation = word = None
    if kind == "one":
        things = (replace(_thing(rng), x=rng.uniform(-0.8, 0.8), y=rng.uniform(-0.5, 0.5)),)
    elif kind == "pair":
        relation = rng.choice(RELATIONS)
        things = stand(rng, _thing(rng), _thing(rng), relation)
    elif kind == "count":
        things = several(rng, rng.randint(2, MAX_COUNT))
    else:
        word = (
            rng.choice(WORDS)
            if rng.random() < 0.7
            else "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=rng.randint(2, MAX_WORD)))
        )
        beside = replace(_thing(rng), size="small", x=rng.uniform(-0.9, 0.9), y=-1.5)
        things = (beside,) if rng.random() < 0.5 else ()
    return Scene(kind, things, relation, place, time, style, word)


def _thing(rng: random.Random) -> Thing:
    return Thing(
        rng.choice(SHAPES),
        rng.choice(COLOUR_NAMES),
        rng.choice(SIZES),
        rng.choice(MATERIALS),
        yaw=rng.uniform(-0.6, 0.6),
    )


def stand(rng: random.Random, first: Thing, second: Thing, relation: str) -> tuple[Thing, Thing]:
    """The two things placed so that `first` is left of / on top of / in front of `second`."""
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


def several(rng: random.Random, count: int) -> tuple[Thing, ...]:
    """So many small things that are alike, on as many of five spots."""
    thing = replace(_thing(rng), size="small")
    spots = [(-1.5, 0.6), (0.0, 0.8), (1.5, 0.6), (-0.8, -1.0), (0.8, -1.0)]
    return tuple(
        replace(thing, x=x + rng.uniform(-0.15, 0.15), y=y + rng.uniform(-0.15, 0.15))
        for x, y in rng.sample(spots, count)
    )


def _other(rng: random.Random, value: str, values: tuple[str, ...]) -> str:
    return rng.choice([v for v in values if v != value])


def _twin(rng: random.Random, base: Scene) -> Scene:
    """`base` with one thing about it changed."""
    if base.kind == "pair" and base.relation:
        first, second = base.things
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
            first = _changed(rng, first)
        else:
            second = _changed(rng, second)
        return replace(base, things=stand(rng, first, second, base.relation))
    if base.kind == "count":
        return replace(base, things=several(rng, rng.randint(2, MAX_COUNT)))
    if base.kind == "sign" and base.word:
        return replace(base, word="".join(rng.sample(base.word, len(base.word))))
    return replace(base, things=tuple(_changed(rng, thing) for thing in base.things))


def _changed(rng: random.Random, thing: Thing) -> Thing:
    what = rng.choices(("colour", "shape", "size", "material"), (3, 3, 1, 1))[0]
    values = {"colour": COLOUR_NAMES, "shape": SHAPES, "size": SIZES, "material": MATERIALS}[what]
    change: dict[str, Any] = {what: _other(rng, getattr(thing, what), values)}
    changed: Thing = replace(thing, **change)
    return changed
