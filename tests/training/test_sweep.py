"""The sweep over samplers, in small: every cell is measured, and the page says what was measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from training import sweep


def test_the_page_and_the_plot_are_written(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All lines at all numbers of evaluations; at the reference's own number Heun is the reference."""
    monkeypatch.setattr(sweep, "EVALUATIONS", (5, 79))
    monkeypatch.setattr(sweep, "REFERENCE", {"sampler": "heun", "decoder_num_inference_steps": 40})
    monkeypatch.setattr(sys, "argv", ["sweep", "--checkpoint", str(tiny_checkpoint), "--count", "2", "--out", str(tmp_path)])
    sweep.main()
    page = (tmp_path / "samplers.md").read_text()
    assert "'tiny'" in page and "4 fresh captions" in page and (tmp_path / "samplers.png").read_bytes().startswith(b"\x89PNG")
    distances = page.split("Root mean square")[1]
    for line in sweep.LINES:
        assert page.count(f"| {line.name} |") == (2 if line.solves_ode else 1)
        if line.solves_ode:
            few, many = (float(cell) for cell in distances.split(f"| {line.name} |")[1].split("|")[:2])
            assert few > 0 and (many == 0) == (line.name == "Heun")


def test_heun_is_given_the_steps_that_make_as_many_evaluations() -> None:
    """2n - 1 of them."""
    heun, ddim = (next(line for line in sweep.LINES if line.name == name) for name in ("Heun", "DDIM"))
    assert [heun.at(n)["decoder_num_inference_steps"] for n in (5, 16, 17)] == [3, 8, 9]
    assert ddim.at(16)["decoder_num_inference_steps"] == 16
