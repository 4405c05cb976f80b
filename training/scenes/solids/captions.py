"""Captions of scenes, full or partial, and which of them are held out from training.

A caption carries the claims it makes, so that an image is judged by what its caption says.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, field

from training.scenes.solids.scene import Scene, SceneObject

PLACE_WORDS = {
    "grass": "on grass",
    "sand": "on sand",
    "snow": "on snow",
    "wood": "on a wooden floor",
    "checker": "on a checkered floor",
}
TIME_WORDS = {"day": "by day", "sunset": "at sunset", "night": "at night"}
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}
# (words if the first object comes first, words if the second does)
RELATION_WORDS = {
    "left": (("to the left of", "left of"), ("to the right of", "right of")),
    "above": (("on top of", "above"), ("under", "below")),
    "front": (("in front of",), ("behind",)),
}


@dataclass(frozen=True)
class Caption:
    """A sentence and its claims.

    For example {"objects": ({"shape": "cube", …}, …) in the scene's order, "relation": …}."""

    text: str
    claims: dict[str, object] = field(hash=False)


def is_held_out(text: str) -> bool:
    """Return whether a caption is for evaluation only: one in sixteen, by its checksum."""
    return zlib.crc32(text.encode()) % 16 == 0


def draw_caption(scene: Scene, rng: random.Random, *, held_out: bool = False) -> Caption:
    """Return a random caption of the scene, from the held-out ones or from the others.

    A scene whose few captions are all held out gets a caption of its style alone. Raises
    LookupError if it has no held-out caption."""
    for _ in range(100):
        caption = _compose(scene, rng)
        if is_held_out(caption.text) == held_out:
            return caption
    if held_out:
        raise LookupError(f"no held-out caption for {scene}")
    return Caption(_with_article(scene.style), {"style": scene.style})


def _with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _noun(
    obj: SceneObject, rng: random.Random, *, terse: bool, sketch: bool
) -> tuple[str, dict[str, str]]:
    """Return a noun such as "small shiny red cube" and its claims, always colour and shape."""
    claims = {"colour": obj.colour, "shape": obj.shape}
    for what in ("size",) if sketch else ("size", "material"):
        if not terse and rng.random() < 0.35:
            claims[what] = getattr(obj, what)
    words = [claims[what] for what in ("size", "material", "colour", "shape") if what in claims]
    return " ".join(words), claims


def _compose(scene: Scene, rng: random.Random) -> Caption:
    terse = rng.random() < 0.35
    # A sketch shows neither place nor time nor material, so no caption names them.
    sketch = scene.style == "pencil sketch"
    claims: dict[str, object] = {"kind": scene.kind}
    if scene.kind == "pair" and scene.relation:
        (noun_a, claims_a), (noun_b, claims_b) = (
            _noun(obj, rng, terse=terse, sketch=sketch) for obj in scene.objects
        )
        claims |= {"objects": (claims_a, claims_b), "relation": scene.relation}
        forward = rng.random() < 0.5
        words = rng.choice(RELATION_WORDS[scene.relation][0 if forward else 1])
        noun_1, noun_2 = (noun_a, noun_b) if forward else (noun_b, noun_a)
        text = f"{_with_article(noun_1)} {words} {_with_article(noun_2)}"
    elif scene.kind == "count":
        noun, attributes = _noun(scene.objects[0], rng, terse=True, sketch=sketch)
        claims |= {"objects": (attributes,), "count": len(scene.objects)}
        text = f"{NUMBERS[len(scene.objects)]} {noun}s"
    elif scene.kind == "sign":
        claims |= {"word": scene.word}
        text = f"a sign that says {scene.word}"
        if scene.objects:
            noun, attributes = _noun(scene.objects[0], rng, terse=terse, sketch=sketch)
            claims["objects"] = (attributes,)
            text = f"{_with_article(noun)} in front of {text}"
    else:
        noun, attributes = _noun(scene.objects[0], rng, terse=terse, sketch=sketch)
        claims["objects"] = (attributes,)
        text = _with_article(noun)
    if not sketch and (not terse or rng.random() < 0.1):
        if rng.random() < 0.4:
            claims["place"] = scene.place
            text += " " + PLACE_WORDS[scene.place]
        if rng.random() < 0.3:
            claims["time"] = scene.time
            text += " " + TIME_WORDS[scene.time]
    if scene.style != "photo":
        claims["style"] = scene.style
        text = rng.choice(
            (f"a {scene.style} of {text}", f"{text}, {scene.style}", f"{text}, a {scene.style}")
        )
    elif rng.random() < 0.25:
        text = f"a photo of {text}"
    return Caption(text, claims)
