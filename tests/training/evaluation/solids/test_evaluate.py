"""The report of a checkpoint has every part, the same in Markdown and JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from training.evaluation.solids import evaluate, scoring


def test_the_report_has_every_part(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has all caption types in all modes, distances, diversity, seconds and plots."""
    monkeypatch.setattr(evaluate, "REFERENCES", 16)
    monkeypatch.setattr(evaluate, "IMAGES_PER_CAPTION", 2)
    options = ["--checkpoint", str(tiny_checkpoint), "--count", "2", "--steps", "4"]
    monkeypatch.setattr(sys, "argv", ["evaluate", *options, "--out", str(tmp_path)])
    evaluate.main()
    report = json.loads((tmp_path / "report.json").read_text())
    text = (tmp_path / "report.md").read_text()
    assert list(report["caption types"]) == [*scoring.CAPTION_TYPES, *scoring.DETAIL_TYPES]
    assert report["parameters"]["decoder_num_inference_steps"] == 4
    for name, modes in report["caption types"].items():
        assert list(modes) == ["prior", "text", "renderings"]
        assert all(counts["checked"]["total"] == 2 for counts in modes.values())
        assert f"| {name}" in text
    for metrics in report["sets"]["modes"].values():
        assert metrics["frechet"]["low"] <= metrics["frechet"]["high"]
        assert 1 <= metrics["places"] <= 2
    assert set(report["speed"]["single"]) == {"64", "256", "1024"}
    assert report["speed"]["batched"]["text"] > 0
    for figure in ("accuracy.png", "sets.png", "samples.jpg"):
        assert f"]({figure})" in text
        assert (tmp_path / figure).stat().st_size > 1000
    assert "nan" not in text
    assert max(map(len, text.split("\n"))) <= 100
