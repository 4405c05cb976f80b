"""The report of a checkpoint, in small: every part of it is there, and the same in Markdown and JSON."""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path

import pytest

from training.evaluation import evaluate, generation, report, scoring
from training.scenes.classifier import asked
from training.scenes.solids.scene import WORDS


def test_the_report_has_every_part(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All sorts of caption in all ways, distances with intervals, diversity, seconds; with plots."""
    monkeypatch.setattr(evaluate, "REFERENCES", 16)
    monkeypatch.setattr(evaluate, "EACH", 2)
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "evaluate",
            "--checkpoint",
            str(tiny_checkpoint),
            "--count",
            "2",
            "--steps",
            "4",
            "--out",
            str(tmp_path),
        ],
    )
    evaluate.main()
    found = json.loads((tmp_path / "report.json").read_text())
    text = (tmp_path / "report.md").read_text()
    assert list(found["sorts"]) == [*scoring.SORTS, *scoring.DETAILS]
    assert found["parameters"]["decoder_num_inference_steps"] == 4
    for name, sort in found["sorts"].items():
        assert list(sort) == ["prior", "text", "drawings"]
        assert all(counts["told"]["of"] == 2 for counts in sort.values())
        assert f"| {name}" in text
    for measured in found["sets"]["ways"].values():
        assert measured["frechet"]["low"] <= measured["frechet"]["high"]
        assert 1 <= measured["places"] <= 2
    assert set(found["speed"]["alone"]) == {"64", "256", "1024"}
    assert found["speed"]["batched"]["text"] > 0
    for figure in ("accuracy.png", "sets.png", "samples.jpg"):
        assert f"]({figure})" in text
        assert (tmp_path / figure).stat().st_size > 1000
    assert "nan" not in text


@pytest.mark.parametrize("name", scoring.DETAILS)
def test_captions_of_a_detail_tell_it(name: str) -> None:
    """All of them, each once."""
    captions = [said for _, said in islice(scoring.captioned(scoring.DETAILS[name], "objects"), 8)]
    assert len({said.text for said in captions}) == 8
    assert all(set(scoring.DETAILS[name].told) <= asked(said).keys() for said in captions)


def test_a_signs_word_is_told_by_its_drawing() -> None:
    """Of drawings nearly always, whatever stands around; and a sign with another word is not taken for it."""
    pairs = list(islice(scoring.captioned(scoring.SORTS["sign"], "objects"), 24))
    images = generation.drawings([shown for shown, _ in pairs])
    right = [
        scoring.legible(image, str(said.claims["word"]))
        for image, (_, said) in zip(images, pairs, strict=True)
    ]
    assert sum(right) >= 22
    known = [
        image
        for image, (_, said) in zip(images, pairs, strict=True)
        if said.claims["word"] in {*WORDS} - {"HELLO"}
    ]
    assert len(known) > 10
    assert not any(scoring.legible(image, "HELLO") for image in known)


def test_the_cards_tables_sum_over_sorts() -> None:
    """A claim's share is over all SORTS that make it; details, which are of other captions, stay out."""
    counts = {
        "core": {"right": 1, "of": 2},
        "all": {"right": 1, "of": 2},
        "told": {"right": 1, "of": 2},
        "place": {"right": 1, "of": 2},
    }
    made = {"one object": 1, "count": 1, "style": 1}
    table = report.for_card(
        {
            "sorts": {
                name: {"prior": counts, "drawings": counts | {"place": {"right": 2, "of": 2}}}
                for name in made
            }
        }
    )
    assert "| place | 4 | 50.0 % | 100.0 % |" in table
    assert "| count | 2 | 50.0 % | 50.0 % | 50.0 % | 50.0 % |" in table
