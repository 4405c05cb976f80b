"""Captions are true of their scenes, and held-out ones are never trained on."""

from __future__ import annotations

import random

import pytest

from training.scenes.solids.captions import RELATION_WORDS, draw_caption, is_held_out
from training.scenes.solids.labels import expected_labels, labels_of
from training.scenes.solids.scene import MIXES, Scene, draw_scene


def draw_scenes(count: int = 600, mix: str = "whole") -> list[Scene]:
    return [draw_scene(index, MIXES[mix]) for index in range(count)]


@pytest.mark.parametrize("held_out", [False, True])
def test_the_words_decide_what_is_held_out(held_out: bool) -> None:
    """Captions of training and of evaluation never coincide."""
    count = 0
    for index, scene in enumerate(draw_scenes(200)):
        try:
            caption = draw_caption(scene, random.Random(index), held_out=held_out)
        except LookupError:
            assert held_out
            continue
        count += 1
        assert is_held_out(caption.text) == held_out or not held_out
    assert count > 100


def test_every_claim_is_true_of_the_scene() -> None:
    """A caption names only what the image shows."""
    for index, scene in enumerate(draw_scenes()):
        caption = draw_caption(scene, random.Random(index))
        labels = labels_of(scene)
        is_sign = caption.claims.get("kind") == "sign"
        for question, answer in expected_labels(caption).items():
            # The neighbour of a sign has no labels.
            if is_sign and question[-1].isdigit() and not question.startswith("letter"):
                continue
            assert labels[question] == answer, (caption.text, question, scene)


def test_relations_are_named_from_both_sides() -> None:
    """ "a on top of b" and "b under a" name the same scene, with the right words in each order."""
    directions: dict[str, set[bool]] = {}
    for index, scene in enumerate(draw_scenes(mix="objects")):
        if not scene.relation:
            continue
        text = draw_caption(scene, random.Random(index)).text
        forward, backward = RELATION_WORDS[scene.relation]
        first, second = scene.objects
        is_forward = any(f" {words} " in text for words in forward)
        assert is_forward or any(f" {words} " in text for words in backward)
        if (first.colour, first.shape) != (second.colour, second.shape):
            place_of_first = text.find(f"{first.colour} {first.shape}")
            place_of_second = text.find(f"{second.colour} {second.shape}")
            assert (place_of_first < place_of_second) == is_forward, (text, scene)
        directions.setdefault(scene.relation, set()).add(is_forward)
    assert all(both == {True, False} for both in directions.values())
    assert set(directions) == set(RELATION_WORDS)
