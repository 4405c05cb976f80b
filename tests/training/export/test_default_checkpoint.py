"""A finished run is exported as a checkpoint that generates images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from models import UnCLIP
from training.export import default_checkpoint
from training.presets import PRESETS
from training.run import Run


def test_a_finished_run_becomes_a_checkpoint(
    small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scene classifier gets its own file, and the card has the scores."""
    monkeypatch.setitem(PRESETS, "tiny", small_run.preset)
    out = tmp_path / "exported"
    classifier = tmp_path / "classifier.safetensors"
    options = ["--preset", "tiny", "--out", str(out), "--classifier", str(classifier)]
    default_checkpoint.main([str(small_run.folder), *options, "--count", "4"])
    image = UnCLIP.load(out).generate(["a red cube"], size=64)
    assert image.shape == (1, 3, 64, 64)
    assert torch.isfinite(image).all()
    assert classifier.stat().st_size > 10_000
    card = (out / "CARD.md").read_text()
    assert "| compositional split | 4 |" in card
    assert "Apache-2.0" in card
    assert "| diffusion | 0." in card
    assert "| autoregressive | 0." in card
    assert max(map(len, card.split("\n"))) <= 100
    report = json.loads((small_run.folder / "report.json").read_text())
    assert 0 <= report["figures"]["retrieval"] <= 1


def test_an_unfinished_run_is_refused(small_run: Run, tmp_path: Path) -> None:
    """Nothing is written to the checkpoint folder."""
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match="has not begun"):
        default_checkpoint.export(
            "tiny", small_run.preset, tmp_path, out, tmp_path / "classifier.safetensors", 4, "cpu"
        )
    assert not out.exists()
