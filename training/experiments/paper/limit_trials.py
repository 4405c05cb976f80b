"""Captions of the limits experiment, with scenes that they are true of."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from training.scenes.solids.captions import NUMBERS, PLACE_WORDS, TIME_WORDS, Caption
from training.scenes.solids.scene import (
    COLOUR_NAMES,
    MATERIALS,
    PLACES,
    SHAPES,
    SIZES,
    WORDS,
    Scene,
    SceneObject,
    place_copies,
    place_pair,
)

RELATION_WORDS = {"above": "on top of", "left": "left of", "front": "in front of"}


@dataclass(frozen=True)
class Trial:
    """A caption, a scene that it is true of, and the caption with swapped colours."""

    caption: Caption
    scene: Scene
    swapped: Caption | None = None


def draw_binding_trials(count: int, rng: random.Random, *, same_shape: bool) -> list[Trial]:
    """Return trials such as "a red cube on top of a blue cube", of one shape or two."""
    trials = []
    for _ in range(count):
        relation = rng.choice(list(RELATION_WORDS))
        colours = rng.sample(COLOUR_NAMES, 2)
        shapes = rng.sample(SHAPES, 2)
        if same_shape:
            shapes = [shapes[0]] * 2
        first, second = (
            SceneObject(shape, colour, "large", "matte", yaw=0.3)
            for shape, colour in zip(shapes, colours, strict=True)
        )
        objects = place_pair(rng, first, second, relation)
        scene = Scene("pair", objects, relation, rng.choice(PLACES), "day", "photo")
        caption, swapped = (
            _pair_caption(each, shapes, relation) for each in (colours, colours[::-1])
        )
        trials.append(Trial(caption, scene, swapped))
    return trials


def _pair_caption(colours: list[str], shapes: list[str], relation: str) -> Caption:
    objects = tuple(
        {"colour": colour, "shape": shape} for colour, shape in zip(colours, shapes, strict=True)
    )
    first, second = (f"a {each['colour']} {each['shape']}" for each in objects)
    text = f"{first} {RELATION_WORDS[relation]} {second}"
    return Caption(text, {"kind": "pair", "relation": relation, "objects": objects})


def draw_counting_trials(number: int, count: int, rng: random.Random) -> list[Trial]:
    """Return trials such as "three red spheres"."""
    trials = []
    for _ in range(count):
        shape = rng.choice(SHAPES)
        colour = rng.choice(COLOUR_NAMES)
        # Its value is not used, since the copies have a material of their own.
        rng.choice(MATERIALS)
        objects = tuple(
            replace(each, shape=shape, colour=colour) for each in place_copies(rng, number)
        )
        attributes = {"colour": colour, "shape": shape}
        claims = {"kind": "count", "count": number, "objects": (attributes,)}
        caption = Caption(f"{NUMBERS[number]} {colour} {shape}s", claims)
        scene = Scene("count", objects, None, rng.choice(PLACES), "day", "photo")
        trials.append(Trial(caption, scene))
    return trials


def draw_detailed_trials(details: int, count: int, rng: random.Random) -> list[Trial]:
    """Return trials of two objects in relation with a number of details in the caption.

    4 are colours and shapes, 6 add sizes, 8 add materials, 10 add place and time."""
    attributes = ["size"] * (details >= 6) + ["material"] * (details >= 8) + ["colour", "shape"]
    trials = []
    for trial in draw_binding_trials(count, rng, same_shape=False):
        scene = trial.scene
        relation = str(scene.relation)
        objects = tuple(
            replace(each, size=rng.choice(SIZES), material=rng.choice(MATERIALS))
            for each in scene.objects
        )
        described = tuple({what: getattr(each, what) for what in attributes} for each in objects)
        first, second = (f"a {' '.join(each.values())}" for each in described)
        text = f"{first} {RELATION_WORDS[relation]} {second}"
        claims = trial.caption.claims | {"objects": described}
        time = rng.choice(("day", "night"))
        if details >= 10:
            text += f" {PLACE_WORDS[scene.place]} {TIME_WORDS[time]}"
            claims |= {"place": scene.place, "time": time}
        placed = place_pair(rng, objects[0], objects[1], relation)
        trials.append(Trial(Caption(text, claims), replace(scene, objects=placed, time=time)))
    return trials


def draw_sign_trials(count: int, rng: random.Random) -> list[Trial]:
    """Return trials such as "a sign that says HELLO"."""
    trials = []
    for _ in range(count):
        word = rng.choice(WORDS)
        caption = Caption(f"a sign that says {word}", {"kind": "sign", "word": word})
        scene = Scene("sign", (), None, rng.choice(PLACES), "day", "photo", word)
        trials.append(Trial(caption, scene))
    return trials
