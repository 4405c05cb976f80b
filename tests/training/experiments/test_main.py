"""The command line writes one page with a part of every experiment."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import training.experiments.__main__ as command
from models import defaults as pipeline_defaults
from training.experiments import page, samplers
from training.experiments.paper import aesthetics, conditioning, guidance, operations, priors


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce renderings, steps and scales as far as possible."""
    for module in (conditioning, guidance, priors):
        monkeypatch.setattr(module, "REFERENCES", 16)
    monkeypatch.setattr(aesthetics, "RATINGS", 40)
    for module in (guidance, aesthetics):
        monkeypatch.setattr(module, "SCALES", (1.0, 2.0))
    monkeypatch.setattr(guidance, "IMAGES_PER_CAPTION", 2)
    monkeypatch.setattr(operations, "STEPS", (4, 8))
    monkeypatch.setattr(operations, "SHEET_ROWS", 1)
    monkeypatch.setattr(operations, "GUIDANCE_SCALES", (2.0,))
    few_steps = {
        name: defaults | {"decoder_num_inference_steps": 4}
        for name, defaults in pipeline_defaults.OPERATION_DEFAULTS.items()
    }
    monkeypatch.setattr(pipeline_defaults, "OPERATION_DEFAULTS", few_steps)
    monkeypatch.setattr(samplers, "EVALUATIONS", (4, 7))
    reference = {"sampler": "unipc", "decoder_num_inference_steps": 7}
    monkeypatch.setattr(samplers, "REFERENCE", reference)


@pytest.mark.usefixtures("small")
def test_all_experiments_write_one_page(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part has its command, numbers and figures; figures are small enough to commit."""
    options = ["--checkpoint", str(tiny_checkpoint), "--count", "2", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["experiments", "all", *options])
    command.main()
    text = (tmp_path / page.PAGE).read_text()
    parts = page.parse_parts(text)
    assert list(parts) == list(command.EXPERIMENTS)
    for name, body in parts.items():
        assert body.startswith("## ")
        assert f"python -m training.experiments {name}`, --count 2" in body
        assert "'tiny'" in body
    assert "nan" not in text
    figures = {word.split(")")[0] for word in text.split("](")[1:] if word.startswith("findings/")}
    assert len(figures) >= 10
    assert all((tmp_path / figure).stat().st_size < 250_000 for figure in figures)
