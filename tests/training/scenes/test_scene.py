"""A scene is a pure function of its index."""

from __future__ import annotations

import random

import pytest

from training.scenes.classifier import asked, truths
from training.scenes.solids.captions import RELATION_WORDS, caption, held_out
from training.scenes.solids.scene import FRESH_START, MIXES, Scene, kept_back, scene


def scenes(count: int = 600, split: str = "train", mix: str = "whole") -> list[Scene]:
    return [scene(index, MIXES[mix], split) for index in range(count)]  # type: ignore[arg-type]


def test_the_same_index_gives_the_same_scene() -> None:
    """Also after others were drawn, and unlike its neighbours."""
    first = scenes(50)
    assert [scene(index, MIXES["whole"]) for index in reversed(range(50))] == first[::-1]
    assert len({str(s) for s in first[::2]}) == 25


def test_an_odd_index_is_a_near_twin() -> None:
    """Of the same kind, place, time and style, but not the same scene."""
    drawn = scenes()
    pairs = list(zip(drawn[::2], drawn[1::2], strict=True))
    same = [
        (a.place, a.time, a.style, a.kind) == (b.place, b.time, b.style, b.kind) for a, b in pairs
    ]
    assert sum(same) / len(same) > 0.85  # where either would be kept back, it is drawn anew
    assert sum(a != b for a, b in pairs) / len(pairs) > 0.95


def test_training_never_sees_what_is_kept_back() -> None:
    """And the kept-back split shows nothing else."""
    assert not any(
        s.relation and kept_back(s.things[0], s.relation) for s in scenes() + scenes(split="fresh")
    )
    assert all(s.relation and kept_back(s.things[0], s.relation) for s in scenes(100, "kept back"))


def test_fresh_scenes_are_others_than_those_of_training() -> None:
    """They count from far beyond."""
    assert FRESH_START > 1 << 32
    assert not set(map(str, scenes(200))) & set(map(str, scenes(200, "fresh")))


@pytest.mark.parametrize("held", [False, True])
def test_captions_are_held_out_by_their_words(held: bool) -> None:
    """Training's captions and evaluation's never meet."""
    found = 0
    for index, shown in enumerate(scenes(200)):
        try:
            said = caption(shown, random.Random(index), held=held)
        except LookupError:
            assert held
            continue
        found += 1
        assert held_out(said.text) == held or not held
    assert found > 100


def test_every_claim_of_a_caption_is_true_of_its_scene() -> None:
    """What a caption claims, the drawing's own truths bear out: nothing is said that does not show."""
    for index, shown in enumerate(scenes()):
        said = caption(shown, random.Random(index))
        seen = truths(shown)
        for question, answer in asked(said).items():
            if (
                said.claims.get("kind") != "sign"
                or not question[-1].isdigit()
                or question.startswith("letter")
            ):
                assert seen[question] == answer, (said.text, question, shown)


def test_relations_are_said_from_both_sides() -> None:
    """ "a on top of b" and "b under a" name the same scene, and the words stand where they are true."""
    texts: dict[str, set[bool]] = {}
    for index, shown in enumerate(scenes(mix="objects")):
        if not shown.relation:
            continue
        text = caption(shown, random.Random(index)).text
        forward, backward = RELATION_WORDS[shown.relation]
        first, second = shown.things
        is_forward = any(f" {words} " in text for words in forward)
        assert is_forward or any(f" {words} " in text for words in backward)
        if (first.colour, first.shape) != (second.colour, second.shape):
            order = text.find(f"{first.colour} {first.shape}") < text.find(
                f"{second.colour} {second.shape}"
            )
            assert order == is_forward, (text, shown)
        texts.setdefault(shown.relation, set()).add(is_forward)
    assert all(both == {True, False} for both in texts.values())
    assert set(texts) == set(RELATION_WORDS)
