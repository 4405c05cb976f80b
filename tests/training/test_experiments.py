"""The measures of operations, in small: the page says all of them, and those with a known answer have it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from models import UnCLIP
from training import operations as measures


def test_the_page_is_written(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every section, with numbers in it, and the figure beside."""
    monkeypatch.setattr(measures, "STEPS", (4, 8))
    monkeypatch.setattr(measures, "GUIDANCE", (2.0,))
    monkeypatch.setattr(measures, "ETAS", (0.0, 1.0))
    command = ["operations", "--checkpoint", str(tiny_checkpoint), "--count", "2", "--trials", "3", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    measures.main()
    page = (tmp_path / "operations.md").read_text()
    for section in ("Inversion", "Interpolation", "Text diff", "Variations", "Typographic attack", "Prefix cache"):
        assert f"**{section}" in page
    assert "nan" not in page and "12 scenes a row" in page
    assert (tmp_path / "typographic.png").read_bytes().startswith(b"\x89PNG")


def test_without_noise_variations_do_not_differ(tiny_checkpoint: Path) -> None:
    """At eta 0 all seeds draw one picture; at 1 they do not."""
    from training.evaluate import load_reader

    spread = {eta: value for eta, _, value in measures.variations(UnCLIP.load(tiny_checkpoint), load_reader(), 2)}
    assert spread[0.0] < 1e-4 < spread[1.0]


def test_the_prefix_cache_saves_most_of_the_priors_work(tiny_checkpoint: Path) -> None:
    """Of 81 positions three are computed at each step and 78 once: with five steps that leaves a bit more than a fifth."""
    once, whole = measures.prior_flops(UnCLIP.load(tiny_checkpoint))
    assert (78 + 5 * 3) / (5 * 81) * 0.9 < once / whole < 0.4


def test_psnr_is_as_defined() -> None:
    """Of pictures that are 0.2 apart on a scale of 2: 20 dB."""
    assert measures.psnr(torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.2)) == pytest.approx(20, abs=1e-4)
