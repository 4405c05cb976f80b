"""Test captions, and whether images match them.

Captions are of test scenes and in words that training never reads (captions.is_held_out). Those of
the compositional split are of (colour, shape, relation) combinations that training never sees.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from training.scenes.solids.captions import Caption, draw_caption
from training.scenes.solids.classifier import SceneClassifier
from training.scenes.solids.labels import expected_labels, matches
from training.scenes.solids.render import render
from training.scenes.solids.scene import MIXES, WORDS, Scene, Split, draw_scene

# The objects and their arrangement: the main part of a caption.
_CORE = ("kind", "relation", "count", "colour0", "shape0", "colour1", "shape1")
CLAIMS = (*_CORE[1:], "size0", "size1", "material0", "material1", "place", "time", "style")
MAX_SCENES_WITHOUT_NEW_CAPTION = 2000


@dataclass(frozen=True)
class CaptionType:
    """One type of test caption: its kind and split of scenes, and the questions that count.

    Without `checked_questions` the objects count, or a sign's word."""

    kind: str
    split: Split = "test"
    checked_questions: tuple[str, ...] = ()


CAPTION_TYPES = {
    "one object": CaptionType("one"),
    "two in relation": CaptionType("pair"),
    "compositional split": CaptionType("pair", "compositional"),
    "count": CaptionType("count"),
    "sign": CaptionType("sign"),
}
# Further claims, each with one object, so that nothing else can fail.
DETAIL_TYPES = {
    "size and material": CaptionType("one", checked_questions=("size0", "material0")),
    "place and time": CaptionType("one", checked_questions=("place", "time")),
    "style": CaptionType("one", checked_questions=("style",)),
}


def draw_test_captions(caption_type: CaptionType, mix: str) -> Iterator[tuple[Scene, Caption]]:
    """Yield test scenes of a type with held-out captions, endlessly.

    A caption repeats only when its type has no new ones: there are about 850 of counted objects."""
    used = set[str]()
    index = 0
    scenes_since_new = 0
    while True:
        scene = draw_scene(index, MIXES[mix], caption_type.split)
        index += 2
        if scene.kind != caption_type.kind:
            continue
        scenes_since_new += 1
        if scenes_since_new > MAX_SCENES_WITHOUT_NEW_CAPTION:
            used = set()
            scenes_since_new = 0
        try:
            caption = draw_caption(scene, random.Random(index), held_out=True)
        except LookupError:
            continue
        checked = set(caption_type.checked_questions)
        if caption.text not in used and checked <= expected_labels(caption).keys():
            used.add(caption.text)
            scenes_since_new = 0
            yield scene, caption


def score(
    classifier: SceneClassifier, images: Tensor, captions: Sequence[Caption]
) -> dict[str, list[bool]]:
    """Return by question whether images `[B, 3, 64, 64]` match their captions.

    "core" is about the objects, "all" about everything. Other questions have an entry for each
    caption that makes the claim. A sign's "word" is judged by `sign_is_legible`, since the
    classifier cannot spell."""
    right: dict[str, list[bool]] = {}
    for image, labels, caption in zip(images, classifier.classify(images), captions, strict=True):
        expected = {
            question: answer
            for question, answer in expected_labels(caption).items()
            if not question.startswith("letter")
        }
        core = {question: expected[question] for question in _CORE if question in expected}
        word = caption.claims.get("word")
        is_written = word is None or sign_is_legible(image, str(word))
        right.setdefault("core", []).append(matches(labels, core))
        right.setdefault("all", []).append(matches(labels, expected) and is_written)
        for question in CLAIMS:
            if question in expected:
                is_right = labels[question] == expected[question]
                right.setdefault(question, []).append(is_right)
        if word is not None:
            right.setdefault("word", []).append(is_written)
    return right


def sign_is_legible(image: Tensor, word: str) -> bool:
    """Return whether an image `[3, 64, 64]` shows a sign with this word rather than another one.

    Compares it to renderings of all WORDS, by the correlation of grey where boards can differ. A
    blank board of the right width is right by chance once in the number of WORDS of this length."""
    others = [other for other in WORDS if other != word]
    boards = _standardize(torch.stack([_board(each) for each in (word, *others)])[:, _ink()])
    similarity = boards @ _standardize(image.cpu().mean(0).flatten()[None, _ink()])[0]
    return bool(similarity.argmax() == 0)


@cache
def _board(word: str) -> Tensor:
    """Return the grey values of a rendered sign, `[64 · 64]`. Signs have one fixed place."""
    return render([Scene("sign", (), None, "snow", "day", "photo", word)], 64)[0].mean(0).flatten()


@cache
def _ink() -> Tensor:
    """Return where signs of WORDS differ, `[64 · 64]`."""
    return torch.stack([_board(word) for word in WORDS]).var(0) > 1e-3


def _standardize(grey: Tensor) -> Tensor:
    return F.normalize(grey - grey.mean(1, keepdim=True), dim=1)
