"""A whole run in small: every network learns, and is the same however the run is resumed."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import torch

from models.checkpoints.checkpoint import build_empty
from training.presets import PRESETS
from training.run import NETWORKS, Run


@pytest.mark.parametrize("name", NETWORKS)
def test_training_lowers_the_loss(small_run: Run, name: str) -> None:
    """The mean of the last quarter is below that of the first steps."""
    with (small_run.folder / f"{name}-loss.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    early = sum(losses[:5]) / 5
    late = sum(losses[-10:]) / 10
    assert late < 0.97 * early, (early, late)


def test_the_principal_components_are_fitted_once(small_run: Run, tmp_path: Path) -> None:
    """A resumed run and the export use the basis of training, even if another would fit too."""
    state = torch.load(small_run.folder / "pca.pt", weights_only=True)
    assert torch.equal(small_run.pca.basis, state["basis"])
    shutil.copy(small_run.folder / "clip.pt", tmp_path / "clip.pt")
    state["basis"] *= -1
    torch.save(state, tmp_path / "pca.pt")
    assert torch.equal(Run(small_run.preset, tmp_path).pca.basis, -small_run.pca.basis)


def test_fresh_weights_depend_on_the_seed_only(small_run: Run) -> None:
    """Networks that are built in between do not change them."""
    run = Run(small_run.preset, small_run.folder)
    first = run.network("ar_prior").state_dict()
    second = run.network("ar_prior").state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_sample_grids_are_written(small_run: Run) -> None:
    """Networks that generate images have a grid."""
    for name in ("decoder", "upsampler_256", "upsampler_1024"):
        assert (small_run.folder / f"{name}-samples.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("prior", 1.2e9), ("ar_prior", 0.8e9), ("upsampler_256", 0.7e9), ("upsampler_1024", 0.3e9)],
)
def test_the_paper_preset_has_the_papers_sizes(name: str, parameters: float) -> None:
    """The widths and depths of table 3 give its numbers, without the text encoders."""
    config = PRESETS["paper"].config[name] | ({"components": 319} if name == "ar_prior" else {})
    network = build_empty(name, config)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(parameters, rel=0.15)
