"""What a checkpoint is asked to draw, and whether it did: captions that training never read, and the scene reader's counts.

Captions are of fresh scenes and in words that training never read (see captions.held_out); pairs "kept back" are of (colour, shape,
relation) combinations that training never drew.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from training.captions import Caption, caption
from training.reader import Reader, agree, asked
from training.scene import MIXES, Scene, Split, scene

READER = Path(__file__).parent / "reader.safetensors"
# What counts as right beside everything that was said: the things themselves and how they stand.
_CORE = ("kind", "relation", "count", "colour0", "shape0", "colour1", "shape1")
CLAIMS = (*_CORE[1:], "size0", "size1", "material0", "material1", "place", "time", "style")


@dataclass(frozen=True)
class Sort:
    """One sort of caption: which scenes it is taken from, and the questions that it answers and that are counted (none: the things)."""

    kind: str
    split: Split = "fresh"
    told: tuple[str, ...] = ()


SORTS = {
    "one object": Sort("one"),
    "two in relation": Sort("pair"),
    "two in relation, kept back": Sort("pair", "kept back"),
    "count": Sort("count"),
    "sign": Sort("sign"),
}
# What captions say besides, each of one object, so that nothing else stands in the way.
DETAILS = {
    "size and material": Sort("one", told=("size0", "material0")),
    "place and time": Sort("one", told=("place", "time")),
    "style": Sort("one", told=("style",)),
}


def load_reader(path: Path = READER) -> Reader:
    """The scene reader from its file."""
    reader = Reader()
    reader.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()})
    return reader.eval()


def captioned(sort: Sort, mix: str) -> Iterator[tuple[Scene, Caption]]:
    """Fresh scenes of this sort with captions that training never read, without end and without repeats of a caption."""
    said, index = set(), 0
    while True:
        shown = scene(index, MIXES[mix], sort.split)
        index += 2
        if shown.kind != sort.kind:
            continue
        try:
            words = caption(shown, random.Random(index), held=True)
        except LookupError:
            continue
        if words.text not in said and set(sort.told) <= asked(words).keys():
            said.add(words.text)
            yield shown, words


def judged(reader: Reader, pictures: Tensor, captions: Sequence[Caption]) -> dict[str, list[bool]]:
    """Of pictures `[B, 3, 64, 64]`: whether the things ("core") and whether all that was said ("all") is right; and each claim."""
    right: dict[str, list[bool]] = {}
    for answers, said in zip(reader.read(pictures), captions, strict=True):
        wanted = asked(said)
        right.setdefault("core", []).append(agree(answers, {q: wanted[q] for q in _CORE if q in wanted}))
        right.setdefault("all", []).append(agree(answers, wanted))
        for question in CLAIMS:
            if question in wanted:
                right.setdefault(question, []).append(answers[question] == wanted[question])
        letters = {q: a for q, a in wanted.items() if q.startswith("letter")}
        if letters:
            right.setdefault("word", []).append(agree(answers, letters))
    return right
