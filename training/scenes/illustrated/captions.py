"""Captions as people write them, drawn anew at each step."""

from __future__ import annotations

import random

from training.scenes.illustrated.art.names import LANGUAGES
from training.scenes.illustrated.scene import Part, Scene
from training.scenes.illustrated.synonyms import plural, with_article
from training.scenes.illustrated.world import STYLE_WORDS, World

NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}
# How often a caption mentions what an image could also do without.
STYLE_SHARE = 0.3
TAG_SHARE = 0.04
LANGUAGE_SHARE = 0.12

_FRAMES = (
    ("{a}", 38), ("{bare}", 18), ("a sticker of {a}", 5), ("sticker of {a}", 4),
    ("{bare} sticker", 4), ("an emoji of {a}", 3), ("{bare} emoji", 5), ("a picture of {a}", 4),
    ("an image of {a}", 2), ("a drawing of {a}", 3), ("an illustration of {a}", 2),
    ("{bare} icon", 2), ("the {bare}", 2), ("draw {a}", 1), ("one {bare}", 1),
    ("clipart of {a}", 1), ("a cute {bare}", 4), ("cute {bare}", 2),
)  # fmt: skip
_STYLE_FRAMES = (
    "{text}, {style}",
    "{text} in {style}",
    "{text} in {style} style",
    "{text}, {style} style",
    "{style} style {text}",
)
ARTICLES = {
    "de": ("ein", "eine"),
    "es": ("un", "una"),
    "fr": ("un", "une"),
    "it": ("un", "una"),
    "pt": ("um", "uma"),
    "nl": ("een",),
}
_RELATION_WORDS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "underneath"),
    "in front of": ("in front of",),
    "behind": ("behind",),
}
_OPPOSITES = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
    "in front of": "behind",
    "behind": "in front of",
}
_PLACE_WORDS = {
    "grass": ("on grass", "on the grass", "in a meadow", "on a lawn"),
    "sand": ("on sand", "on the beach", "at the beach", "in the desert"),
    "snow": ("in the snow", "on snow"),
    "wood": ("on a wooden floor", "on wood"),
    "checker": ("on a checkered floor", "on checkered tiles"),
    "water": ("on water", "at sea", "on the sea"),
    "space": ("in space", "in outer space"),
}
_TIME_WORDS = {
    "day": ("by day", "during the day"),
    "sunset": ("at sunset", "at dusk"),
    "night": ("at night",),
}


def draw_caption(
    world: World, scene: Scene, rng: random.Random, style_share: float = STYLE_SHARE
) -> str:
    """Return a caption that is true of the scene, and mentions its ground unless that is white.

    `style_share` is how often it mentions the style; 1 also keeps it in English."""
    if _is_plain(scene) and style_share < 1 and rng.random() < LANGUAGE_SHARE:
        return foreign_caption(world, scene.parts[0].name, rng)
    mentions_style = rng.random() < style_share
    style = (
        rng.choices(STYLE_WORDS[world.atlas.sets[scene.art_set]], (6, 2, 1))[0]
        if mentions_style
        else ""
    )
    if scene.kind in ("one", "coloured", "worn") and rng.random() < 0.4:
        text = _subject_caption(world, scene, rng, style)
    else:
        text = _content(world, scene, rng)
        if style:
            text = rng.choice(_STYLE_FRAMES).format(text=text, style=style)
    return vary_case(_with_ground(text, scene, rng), rng)


def foreign_caption(world: World, name: int, rng: random.Random) -> str:
    """Return the name in one of the languages, some with an article."""
    translations = world.names[name].translations
    language = rng.choice([language for language in LANGUAGES if language in translations])
    word = translations[language]
    if language in ARTICLES and rng.random() < 0.4:
        word = f"{rng.choice(ARTICLES[language])} {word}"
    return vary_case(word, rng)


def frame_noun(noun: str, rng: random.Random) -> str:
    """Return a noun as people type it: "a dog", "dog sticker", "a picture of a dog"."""
    frame = rng.choices([frame for frame, _ in _FRAMES], [weight for _, weight in _FRAMES])[0]
    return vary_case(frame.format(a=with_article(noun), bare=noun), rng)


def plain_caption(world: World, scene: Scene) -> str:
    """Return the scene's full caption in the plainest words, every claim in it."""
    rng = random.Random(0)
    text = _plain_content(world, scene)
    text += f", {STYLE_WORDS[world.atlas.sets[scene.art_set]][0]}"
    return _with_ground(text, scene, rng)


def vary_case(text: str, rng: random.Random) -> str:
    """Return the text with its first letter or all letters in another case, rarely."""
    chance = rng.random()
    if chance < 0.1:
        return text[:1].upper() + text[1:]
    if chance < 0.13:
        return text.upper()
    return text.lower() if chance < 0.5 else text


def _is_plain(scene: Scene) -> bool:
    return scene.kind == "one" and scene.ground is None


def _noun(world: World, name: int, rng: random.Random) -> str:
    words = world.words[name]
    if world.tags[name] and rng.random() < TAG_SHARE:
        return rng.choice(world.tags[name])
    return words[0] if rng.random() < 0.5 else rng.choice(words)


def _phrase(world: World, part: Part, rng: random.Random, style: str = "") -> str:
    words = [style, part.colour or "", _noun(world, part.name, rng)]
    return " ".join(word for word in words if word)


def _worn_words(world: World, label: str, rng: random.Random) -> str:
    noun = (
        _noun(world, world.index(label), rng)
        if rng.random() < 0.3
        else world.words[world.index(label)][0]
    )
    noun = "headphones" if noun == "headphone" else noun
    return with_article(noun)


def _subject_caption(world: World, scene: Scene, rng: random.Random, style: str) -> str:
    """Return a caption whose style, if any, is an adjective: "a flat dog wearing a hat"."""
    part = scene.parts[0]
    bare = _phrase(world, part, rng, style)
    frame = rng.choices([frame for frame, _ in _FRAMES], [weight for _, weight in _FRAMES])[0]
    text = frame.format(a=with_article(bare), bare=bare)
    return f"{text} {_wearing(world, part.worn, rng)}" if part.worn else text


def _wearing(world: World, label: str, rng: random.Random) -> str:
    return f"{rng.choice(('wearing', 'wearing', 'with', 'in'))} {_worn_words(world, label, rng)}"


def _content(world: World, scene: Scene, rng: random.Random) -> str:
    parts = scene.parts
    phrases = [_phrase(world, part, rng) for part in parts]
    named = [with_article(phrase) if rng.random() < 0.8 else phrase for phrase in phrases]
    if scene.kind == "relation":
        assert scene.relation is not None
        if rng.random() < 0.5:
            return f"{named[0]} {rng.choice(_RELATION_WORDS[scene.relation])} {named[1]}"
        return f"{named[1]} {rng.choice(_RELATION_WORDS[_OPPOSITES[scene.relation]])} {named[0]}"
    if scene.kind == "several":
        rng.shuffle(named)
        return f"{', '.join(named[:-1])} and {named[-1]}"
    if scene.kind == "count":
        number = NUMBERS[scene.count] if rng.random() < 0.75 else str(scene.count)
        return f"{number} {plural(phrases[0])}"
    if scene.kind == "holding":
        verb = rng.choice(("holding", "with", "and"))
        return f"{named[0]} {verb} {_worn_words(world, scene.extra or '', rng)}"
    if scene.kind == "riding":
        verb = rng.choice(("riding", "on"))
        return f"{named[0]} {verb} {_worn_words(world, scene.extra or '', rng)}"
    if scene.kind == "sign":
        frame = rng.choice(
            (
                "{a} with a sign that says {w}",
                "{a} and a sign that says {w}",
                "{a} with the word {w}",
                "{a} over a sign saying {w}",
            )
        )
        return frame.format(a=named[0], w=scene.word)
    frame = rng.choices([frame for frame, _ in _FRAMES], [weight for _, weight in _FRAMES])[0]
    text = frame.format(a=with_article(phrases[0]), bare=phrases[0])
    return f"{text} {_wearing(world, parts[0].worn, rng)}" if parts[0].worn else text


def _plain_content(world: World, scene: Scene) -> str:
    named = [
        with_article(" ".join(filter(None, (part.colour, world.words[part.name][0]))))
        for part in scene.parts
    ]
    if scene.kind == "relation":
        return f"{named[0]} {scene.relation} {named[1]}"
    if scene.kind == "several":
        return f"{', '.join(named[:-1])} and {named[-1]}"
    if scene.kind == "count":
        return f"{NUMBERS[scene.count]} {plural(world.words[scene.parts[0].name][0])}"
    extra = with_article(world.words[world.index(scene.extra)][0]) if scene.extra else ""
    if scene.kind == "holding":
        return f"{named[0]} holding {extra}"
    if scene.kind == "riding":
        return f"{named[0]} riding {extra}"
    if scene.kind == "sign":
        return f"{named[0]} with a sign that says {scene.word}"
    worn = scene.parts[0].worn
    return f"{named[0]} wearing {_worn_words(world, worn, random.Random(1))}" if worn else named[0]


def _with_ground(text: str, scene: Scene, rng: random.Random) -> str:
    if scene.ground is None:
        return (
            f"{text} on {rng.choice(('white', 'a white background', 'a plain background'))}"
            if rng.random() < 0.04
            else text
        )
    if scene.time is None:
        frame = rng.choice(
            ("{t} on {g}", "{t} on a {g} background", "{t}, {g} background", "{t} on {g} ground")
        )
        return frame.format(t=text, g=scene.ground)
    text = f"{text} {rng.choice(_PLACE_WORDS[scene.ground])}"
    mentions_time = scene.ground != "space" and (scene.time != "day" or rng.random() < 0.15)
    return f"{text} {rng.choice(_TIME_WORDS[scene.time])}" if mentions_time else text
