"""The card of the illustrated world."""

from __future__ import annotations

from training.evaluation.words import Accuracy
from training.export.illustrated_card import Figures, write_card

FIGURES = Figures(
    rows={"one thing": {"images": {"all": 0.5, "names": 0.75}, "renders": {"all": 0.99}}},
    count=100,
    names={"dog": 0.95, "cat": 0.8, "herb": 0.2},
    groups={"dog": "animals-nature", "cat": "animals-nature", "herb": "food-drink"},
    styles={"flat": {"first": 0.6, "style": 0.9}},
    words={"de": Accuracy(0.9, 0.95, 1063)},
    photographs=Accuracy(0.4, 0.7, 71),
    trained={"decoder": "17.00 M, 10 steps of 96"},
    steps=12,
)


def test_names_that_are_mostly_right_are_listed():
    card = write_card(FIGURES)
    prose = " ".join(card.split())
    assert "2 of 3 names are right in 80 % or more" in prose
    assert "cat, dog." in prose
    assert "| animals-nature | 2 | 2 |" in card
    assert "| food-drink | 1 | 0 |" in card


def test_the_judge_is_beside_every_row():
    assert "| one thing | 50 % | 75 % | – |" in write_card(FIGURES)
    assert write_card(FIGURES).count("99 %") == 1


def test_words_and_licences_are_there():
    card = write_card(FIGURES)
    assert "| de | 90 % | 95 % | 1063 |" in card
    assert "| photographs | 40 % | 70 % | 71 |" in card
    assert "Twemoji" in card
