"""What a checkpoint reports about words that training never saw."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.vocabulary import (
    DrawnName,
    Vocabulary,
    explain_prompt,
    load_vocabulary,
    rewrite_prompt,
    save_vocabulary,
)

VOCABULARY = Vocabulary(
    names=(
        DrawnName(
            "dog face", "animals-nature", ("dog", "dog face"), {"de": "Hund", "fr": "tête de chien"}
        ),
        DrawnName("hot dog", "food-drink", ("hot dog",)),
        DrawnName("cherries", "food-drink", ("cherries", "cherry")),
    ),
    nouns={"corgi": "dog", "golden retriever": "dog"},
    other_words=frozenset(("a", "the", "on", "grass", "red", "wearing", "two")),
)


@pytest.mark.parametrize(
    "prompt",
    [
        "a dog",
        "Two dogs on grass",
        "the Hund",
        "a HOT DOG",
        "tête de chien",
        "2 cherries",
        'a dog "XYZZY"',
    ],
)
def test_known_words_are_not_reported(prompt):
    assert explain_prompt(VOCABULARY, prompt) == []


def test_a_noun_reports_what_it_is_drawn_as():
    assert [
        str(one)
        for one in explain_prompt(
            VOCABULARY, "a red corgi and a golden retriever".replace(" and", "")
        )
    ] == [
        "corgi: drawn as a dog",
        "golden retriever: drawn as a dog",
    ]


def test_plural_nouns_are_found():
    assert str(explain_prompt(VOCABULARY, "two corgis")[0]) == "corgis: drawn as a dog"


def test_an_unknown_word_reports_the_nearest_known():
    (unknown,) = explain_prompt(VOCABULARY, "a cherrry")
    assert unknown.nearest[0] == "cherry"
    assert str(unknown).startswith("cherrry: not understood; nearest known: cherry")


def test_each_unknown_is_reported_once():
    assert len(explain_prompt(VOCABULARY, "qwrtz qwrtz")) == 1


def test_a_vocabulary_survives_saving(tmp_path: Path):
    save_vocabulary(tmp_path, VOCABULARY)
    loaded = load_vocabulary(tmp_path)
    assert loaded == VOCABULARY


def test_a_folder_without_vocabulary_has_none(tmp_path: Path):
    assert load_vocabulary(tmp_path) is None


def test_a_broken_vocabulary_is_refused(tmp_path: Path):
    (tmp_path / "vocabulary.json").write_text("{}")
    with pytest.raises(ValueError, match="not a vocabulary"):
        load_vocabulary(tmp_path)


@pytest.mark.parametrize(
    ("prompt", "rewritten"),
    [
        ("a corgi on grass", "a dog on grass"),
        ("Two Corgis!", "Two dogs!"),
        ("a Golden  retriever, red", "a dog, red"),
        ("a dog", "a dog"),
        ('a dog with a sign "corgi"', 'a dog with a sign "corgi"'),
    ],
)
def test_nouns_are_replaced_by_what_is_drawn(prompt, rewritten):
    assert rewrite_prompt(VOCABULARY, prompt) == rewritten
