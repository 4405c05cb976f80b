"""What a checkpoint is asked to draw, and whether it did: captions that training never read, and the scene reader's counts.

Captions are of fresh scenes and in words that training never read (see captions.held_out); pairs "kept back" are of (colour, shape,
relation) combinations that training never drew.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from training.scenes.classifier import Reader, agree, asked
from training.scenes.solids.captions import Caption, caption
from training.scenes.solids.render import render
from training.scenes.solids.scene import MIXES, WORDS, Scene, Split, scene

READER = Path(__file__).parents[1] / "scenes" / "classifier.safetensors"
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
EXHAUSTED = 2000  # scenes without a new caption
# What captions say besides, each of one object, so that nothing else stands in the way.
DETAILS = {
    "size and material": Sort("one", told=("size0", "material0")),
    "place and time": Sort("one", told=("place", "time")),
    "style": Sort("one", told=("style",)),
}


def load_reader(path: Path = READER) -> Reader:
    """The scene reader from its file."""
    reader = Reader()
    reader.load_state_dict(
        {
            key: value.float() if value.is_floating_point() else value
            for key, value in load_file(path).items()
        }
    )
    return reader.eval()


def captioned(sort: Sort, mix: str) -> Iterator[tuple[Scene, Caption]]:
    """Fresh scenes of this sort with captions that training never read, without end. No caption comes twice before the others of its
    sort: of counted things there are some 850."""
    said = set[str]()
    index = 0
    looked = 0
    while True:
        shown = scene(index, MIXES[mix], sort.split)
        index += 2
        if shown.kind != sort.kind:
            continue
        looked += 1
        if looked > EXHAUSTED:
            said = set()
            looked = 0
        try:
            words = caption(shown, random.Random(index), held=True)
        except LookupError:
            continue
        if words.text not in said and set(sort.told) <= asked(words).keys():
            said.add(words.text)
            looked = 0
            yield shown, words


def judged(reader: Reader, images: Tensor, captions: Sequence[Caption]) -> dict[str, list[bool]]:
    """Of images `[B, 3, 64, 64]`: whether the things ("core") and whether all that was said ("all") is right; and each claim. A sign's
    word is looked at by `legible`, as the reader cannot spell."""
    right: dict[str, list[bool]] = {}
    for image, answers, said in zip(images, reader.read(images), captions, strict=True):
        wanted = {
            question: answer
            for question, answer in asked(said).items()
            if not question.startswith("letter")
        }
        word = said.claims.get("word")
        written = word is None or legible(image, str(word))
        right.setdefault("core", []).append(
            agree(answers, {q: wanted[q] for q in _CORE if q in wanted})
        )
        right.setdefault("all", []).append(agree(answers, wanted) and written)
        for question in CLAIMS:
            if question in wanted:
                right.setdefault(question, []).append(answers[question] == wanted[question])
        if word is not None:
            right.setdefault("word", []).append(written)
    return right


def legible(image: Tensor, word: str) -> bool:
    """Whether an image `[3, 64, 64]` is more like the drawing of a sign with this word than like any with another of WORDS: by the
    correlation of their grey where boards can differ. A board of the right width without letters is right by chance once in as many
    times as there are WORDS of this length."""
    rivals = [other for other in WORDS if other != word]
    boards = _standard(torch.stack([_board(each) for each in (word, *rivals)])[:, _ink()])
    likeness = boards @ _standard(image.cpu().mean(0).flatten()[None, _ink()])[0]
    return bool(likeness.argmax() == 0)


@cache
def _board(word: str) -> Tensor:
    """Grey of a drawn sign, `[64 · 64]`; signs stand where they stand in every scene."""
    return render([Scene("sign", (), None, "snow", "day", "photo", word)], 64)[0].mean(0).flatten()


@cache
def _ink() -> Tensor:
    """True where WORDS' signs differ, `[64 · 64]`."""
    return torch.stack([_board(word) for word in WORDS]).var(0) > 1e-3


def _standard(grey: Tensor) -> Tensor:
    return F.normalize(grey - grey.mean(1, keepdim=True), dim=1)
