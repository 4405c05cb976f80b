"""Scenes as a pure function of an index: what is shown, before any pixel."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from training.scenes.illustrated.splits import is_held_out
from training.scenes.illustrated.world import (
    COLOURS,
    GROUND_COLOURS,
    HEADWEAR,
    HELD,
    PLACES,
    TIMES,
    VEHICLES,
    WORN,
    World,
    has_face,
    is_creature,
)

KINDS = ("one", "coloured", "relation", "several", "count", "worn", "holding", "riding", "sign")
RELATIONS = ("left of", "right of", "above", "below", "in front of", "behind")
MAX_COUNT = 5
# How often each kind is drawn, by what a training concentrates on.
MIXES: dict[str, dict[str, float]] = {
    "simple": {
        "one": 72,
        "coloured": 8,
        "relation": 7,
        "several": 2,
        "count": 4,
        "worn": 4,
        "holding": 1.5,
        "riding": 1.5,
    },
    "full": {
        "one": 40,
        "coloured": 10,
        "relation": 16,
        "several": 6,
        "count": 9,
        "worn": 7,
        "holding": 4,
        "riding": 3,
        "sign": 5,
    },
}
# How often an unremarkable scene stands on plain white.
WHITE_SHARE = {"simple": 0.84, "full": 0.6}


@dataclass(frozen=True)
class Part:
    """One thing of a scene."""

    name: int  # index into the world's names
    colour: str | None = None  # None: its own colours
    worn: str | None = None  # label of what it wears


@dataclass(frozen=True)
class Scene:
    """What an image shows. `ground` is a colour or a place, None for plain white; `time` goes with
    places."""

    index: int
    kind: str
    art_set: int
    parts: tuple[Part, ...]
    relation: str | None = None
    count: int = 1
    extra: str | None = None  # label of what is held or ridden
    word: str | None = None  # on a sign
    ground: str | None = None
    time: str | None = None


def draw_scene(
    world: World,
    index: int,
    mix: str = "simple",
    kind: str | None = None,
    *,
    held_out: str | None = None,
) -> Scene:
    """Return scene number `index` of the mix.

    Args:
        kind: one of `KINDS`; None draws it by the mix.
        held_out: one of `splits.MODULI`: the scene shows a combination that training never
        sees. None: it shows none.
    """
    for attempt in range(1000):
        rng = random.Random(f"{mix} {index} {attempt} {kind} {held_out}")
        scene = _draw(
            world,
            index,
            rng,
            kind or _pick_kind(rng, MIXES[mix]),
            WHITE_SHARE[mix],
            held_out == "style",
        )
        rules = held_out_combinations(world, scene)
        if (rules == {held_out}) if held_out else not rules:
            return scene
    raise ValueError(f"no scene of kind {kind!r} shows a held-out {held_out!r}")


def held_out_combinations(world: World, scene: Scene) -> set[str]:
    """Return which rules of the compositional split a scene falls under."""
    rules = set()
    labels = [world.names[part.name].label for part in scene.parts]
    for part, label in zip(scene.parts, labels, strict=True):
        if (
            scene.art_set not in world.sets_of(part.name)
            and world.atlas.table[part.name, scene.art_set] >= 0
        ):
            rules.add("style")
        if part.colour and is_held_out("colour", label, part.colour):
            rules.add("colour")
        if part.worn and is_held_out("worn", label, part.worn):
            rules.add("worn")
    if scene.relation and is_held_out("relation", *labels, scene.relation):
        rules.add("relation")
    if scene.count > 1 and is_held_out("count", labels[0], str(scene.count)):
        rules.add("count")
    return rules


def _pick_kind(rng: random.Random, shares: Mapping[str, float]) -> str:
    return rng.choices(list(shares), list(shares.values()))[0]


def _draw(
    world: World, index: int, rng: random.Random, kind: str, white_share: float, any_style: bool
) -> Scene:
    first = _pick_name(world, rng, kind)
    allowed = world.sets_of(first, held_out=any_style)
    art_set = rng.choice(allowed or world.sets_of(first))
    scene = Scene(index, kind, art_set, (Part(first),))
    if kind == "coloured":
        scene = replace(scene, parts=(Part(first, rng.choice(list(COLOURS))),))
    elif kind == "relation":
        second = _pick_other(world, rng, (first,), art_set)
        parts = tuple(
            Part(name, rng.choice(list(COLOURS)) if rng.random() < 0.2 else None)
            for name in (first, second)
        )
        scene = replace(scene, parts=parts, relation=rng.choice(RELATIONS))
    elif kind == "several":
        second = _pick_other(world, rng, (first,), art_set)
        names = [first, second]
        if rng.random() < 0.5:
            names.append(_pick_other(world, rng, (first, second), art_set))
        scene = replace(scene, parts=tuple(map(Part, names)))
    elif kind == "count":
        scene = replace(scene, count=rng.randint(2, MAX_COUNT))
    elif kind == "worn":
        scene = replace(scene, parts=(Part(first, worn=_pick_label(world, rng, WORN, art_set)),))
    elif kind == "holding":
        scene = replace(scene, extra=_pick_label(world, rng, HELD, art_set, first))
    elif kind == "riding":
        scene = replace(scene, extra=_pick_label(world, rng, VEHICLES, art_set, first))
    elif kind == "sign":
        scene = replace(scene, word=_pick_word(world, rng))
    return _with_ground(scene, rng, white_share)


def _with_ground(scene: Scene, rng: random.Random, white_share: float) -> Scene:
    if rng.random() < white_share:
        return scene
    if rng.random() < 0.55:
        return replace(scene, ground=rng.choice(list(GROUND_COLOURS)))
    return replace(scene, ground=rng.choice(PLACES), time=rng.choices(TIMES, (3, 1, 1))[0])


def _pick_name(world: World, rng: random.Random, kind: str = "one") -> int:
    while True:
        index: int = rng.choices(world.tier, world.weights)[0]
        name = world.names[index]
        if (kind != "worn" or has_face(name)) and (
            kind not in ("holding", "riding") or is_creature(name)
        ):
            return index


def _pick_other(world: World, rng: random.Random, others: tuple[int, ...], art_set: int) -> int:
    while True:
        name = _pick_name(world, rng)
        if name not in others and art_set in world.sets_of(name):
            return name


def _pick_label(
    world: World, rng: random.Random, labels: tuple[str, ...], art_set: int, other: int = -1
) -> str:
    mentioned = [
        label
        for label in labels
        if _is_shown(world, label, art_set) and world.index(label) != other
    ]
    return rng.choice(mentioned)


def _is_shown(world: World, label: str, art_set: int) -> bool:
    return world.index(label) >= 0 and world.atlas.table[world.index(label), art_set] >= 0


def _pick_word(world: World, rng: random.Random) -> str:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    if rng.random() < 0.5:
        words = [
            word
            for word in world.words[rng.choice(world.tier)]
            if word.isalpha() and word.isascii() and len(word) <= 8
        ]
        if words:
            return rng.choice(words).upper()
    return "".join(rng.choice(letters) for _ in range(rng.randint(1, 8)))


def is_headwear(label: str) -> bool:
    """Return whether something worn goes on top of the head."""
    return label in HEADWEAR
