"""Labels of scenes: questions with a fixed set of answers, which captions claim and images show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from training.scenes.solids.captions import Caption
from training.scenes.solids.scene import (
    COLOUR_NAMES,
    KINDS,
    MATERIALS,
    MAX_COUNT,
    MAX_WORD,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    STYLES,
    TIMES,
    Scene,
)

LETTERS = " ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ATTRIBUTES = {"shape": SHAPES, "colour": COLOUR_NAMES, "size": SIZES, "material": MATERIALS}
# Question -> possible answers. Objects 0 and 1 are in the scene's order: left, upper, front first.
QUESTIONS: dict[str, Sequence[object]] = {
    "kind": KINDS,
    "relation": RELATIONS,
    "count": range(1, MAX_COUNT + 1),
    "place": PLACES,
    "time": TIMES,
    "style": STYLES,
    **{f"{what}{slot}": values for slot in range(2) for what, values in _ATTRIBUTES.items()},
    **{f"letter{place}": LETTERS for place in range(MAX_WORD)},
}
UNLABELLED = -100  # the index that cross_entropy ignores


def labels_of(scene: Scene) -> dict[str, object]:
    """Return the answers that the scene's image shows; other questions are left out."""
    labels: dict[str, object] = {"kind": scene.kind, "style": scene.style}
    is_sketch = scene.style == "pencil sketch"
    if not is_sketch:
        labels |= {"place": scene.place, "time": scene.time}
    if scene.relation:
        labels["relation"] = scene.relation
    if scene.kind in ("one", "count"):
        labels["count"] = len(scene.objects)
    objects = scene.objects if scene.kind == "pair" else scene.objects[:1]
    for slot, obj in enumerate(objects):
        for what in _ATTRIBUTES:
            if not (is_sketch and what == "material"):
                labels[f"{what}{slot}"] = getattr(obj, what)
    if scene.word:
        labels |= _label_letters(scene.word)
    return labels


def expected_labels(caption: Caption) -> dict[str, object]:
    """Return the answers that make a caption's claims true."""
    claims = caption.claims
    scene_questions = ("kind", "relation", "count", "place", "time", "style")
    labels = {key: claims[key] for key in scene_questions if key in claims}
    objects = cast("tuple[dict[str, str], ...]", claims.get("objects", ()))
    for slot, attributes in enumerate(objects):
        labels |= {f"{what}{slot}": value for what, value in attributes.items()}
    if claims.get("word"):
        labels |= _label_letters(str(claims["word"]))
    return labels


def matches(labels: dict[str, object], expected: dict[str, object]) -> bool:
    """Return whether every expected label is among the labels."""
    return all(labels[question] == value for question, value in expected.items())


def encode_labels(scenes: Sequence[Scene]) -> Tensor:
    """Return `[B, questions]` indices into QUESTIONS' answers, UNLABELLED for what is not shown."""
    return torch.tensor([_encode(labels_of(scene)) for scene in scenes])


def _encode(labels: dict[str, object]) -> list[int]:
    return [
        list(answers).index(labels[question]) if question in labels else UNLABELLED
        for question, answers in QUESTIONS.items()
    ]


def _label_letters(word: str) -> dict[str, object]:
    return {f"letter{place}": letter for place, letter in enumerate(word.ljust(MAX_WORD))}
