"""What can be said of a scene: full, partial and reordered captions, and which of them training never sees.

A caption carries the claims it makes, so that a judge can hold an image to what was said and to nothing else.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, field

from training.scenes.solids.scene import Scene, Thing

PLACE_WORDS = {
    "grass": "on grass",
    "sand": "on sand",
    "snow": "on snow",
    "wood": "on a wooden floor",
    "checker": "on a checkered floor",
}
TIME_WORDS = {"day": "by day", "sunset": "at sunset", "night": "at night"}
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}
# (words when the first thing is named first, words when the second is)
RELATION_WORDS = {
    "left": (("to the left of", "left of"), ("to the right of", "right of")),
    "above": (("on top of", "above"), ("under", "below")),
    "front": (("in front of",), ("behind",)),
}


@dataclass(frozen=True)
class Caption:
    """A sentence and its claims: {"things": ({"shape": "cube", …}, …) in the scene's order, "relation": …, …}."""

    text: str
    claims: dict[str, object] = field(hash=False)


def held_out(text: str) -> bool:
    """True for one caption in sixteen, by its checksum: those are for evaluation, and training never reads them."""
    return zlib.crc32(text.encode()) % 16 == 0


def caption(scene: Scene, rng: random.Random, *, held: bool = False) -> Caption:
    """A caption of the scene, from the held-out ones or the others. LookupError where it has no held-out one; a scene whose
    few captions are all held out is called by its style alone."""
    for _ in range(100):
        said = _say(scene, rng)
        if held_out(said.text) == held:
            return said
    if held:
        raise LookupError(f"no held-out caption for {scene}")
    return Caption(_article(scene.style), {"style": scene.style})


def _article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _noun(
    thing: Thing, rng: random.Random, *, terse: bool, sketch: bool
) -> tuple[str, dict[str, str]]:
    """ "small shiny red cube" and the claims it makes; colour and shape are always among them."""
    claims = {"colour": thing.colour, "shape": thing.shape}
    for what in ("size",) if sketch else ("size", "material"):
        if not terse and rng.random() < 0.35:
            claims[what] = getattr(thing, what)
    words = [claims[what] for what in ("size", "material", "colour", "shape") if what in claims]
    return " ".join(words), claims


def _say(scene: Scene, rng: random.Random) -> Caption:
    terse = rng.random() < 0.35
    sketch = (
        scene.style == "pencil sketch"
    )  # shows neither place nor time nor material, so nobody says them
    claims: dict[str, object] = {"kind": scene.kind}
    if scene.kind == "pair" and scene.relation:
        (noun_a, claims_a), (noun_b, claims_b) = (
            _noun(thing, rng, terse=terse, sketch=sketch) for thing in scene.things
        )
        claims |= {"things": (claims_a, claims_b), "relation": scene.relation}
        forward = rng.random() < 0.5
        words = rng.choice(RELATION_WORDS[scene.relation][0 if forward else 1])
        noun_1, noun_2 = (noun_a, noun_b) if forward else (noun_b, noun_a)
        text = f"{_article(noun_1)} {words} {_article(noun_2)}"
    elif scene.kind == "count":
        noun, said = _noun(scene.things[0], rng, terse=True, sketch=sketch)
        claims |= {"things": (said,), "count": len(scene.things)}
        text = f"{NUMBERS[len(scene.things)]} {noun}s"
    elif scene.kind == "sign":
        claims |= {"word": scene.word}
        text = f"a sign that says {scene.word}"
        if scene.things:
            noun, said = _noun(scene.things[0], rng, terse=terse, sketch=sketch)
            claims["things"] = (said,)
            text = f"{_article(noun)} in front of {text}"
    else:
        noun, said = _noun(scene.things[0], rng, terse=terse, sketch=sketch)
        claims["things"] = (said,)
        text = _article(noun)
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
