"""A whole run in small: every network learns, and what is baked is a checkpoint that draws."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models import UnCLIP
from models.checkpoints.checkpoint import build_empty
from training.export import default_checkpoint
from training.presets import PRESETS, Preset
from training.run import NETWORKS, Run
from training.trainer.trainer import Plan


def tiny_preset(config: dict[str, object]) -> Preset:
    """So few steps that it takes seconds, yet enough for every loss to fall."""
    plans = {
        "reader": Plan(steps=40, batch=32, lr=3e-3, warmup=5),
        "clip": Plan(steps=40, batch=32, lr=3e-3, warmup=5),
        "prior": Plan(steps=40, batch=64, lr=3e-3, warmup=5),
        "ar_prior": Plan(steps=40, batch=64, lr=3e-3, warmup=5),
        "decoder": Plan(steps=40, batch=16, lr=3e-3, warmup=5),
        "upsampler_256": Plan(steps=40, batch=4, lr=3e-3, warmup=5),
        "upsampler_1024": Plan(steps=40, batch=4, lr=3e-3, warmup=5),
    }
    return replace(PRESETS["cpu"], pool=256, rest=64, crops=32, config=config, plans=plans)


@pytest.fixture(scope="module")
def trained(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = {
        key: value
        for key, value in json.loads((tiny_checkpoint / "config.json").read_text()).items()
        if key != "format"
    }
    run = Run(tiny_preset(config), tmp_path_factory.mktemp("run"))
    for name in NETWORKS:
        run.train(name)
    return run


@pytest.mark.parametrize("name", NETWORKS)
def test_training_lowers_the_loss(trained: Run, name: str) -> None:
    """Of every network, by the mean of the last quarter against the first steps."""
    with (trained.folder / f"{name}-loss.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    early = sum(losses[:5]) / 5
    late = sum(losses[-10:]) / 10
    assert late < 0.97 * early, (early, late)


def test_the_basis_of_the_tokens_is_fitted_once(trained: Run, tmp_path: Path) -> None:
    """A run taken up again, and the bake, work in the one that training worked in, even where another would fit as well."""
    turned = torch.load(trained.folder / "pca.pt", weights_only=True)
    assert torch.equal(trained.pca.basis, turned["basis"])
    for name in ("clip.pt", "pca.pt"):
        shutil.copy(trained.folder / name, tmp_path / name)
    turned["basis"] *= -1
    torch.save(turned, tmp_path / "pca.pt")
    assert torch.equal(Run(trained.preset, tmp_path).pca.basis, -trained.pca.basis)


def test_a_fresh_network_does_not_depend_on_what_was_built_before(trained: Run) -> None:
    """Also where its config must be found by another one first."""
    again = Run(trained.preset, trained.folder)
    first = again.network("ar_prior").state_dict()
    second = again.network("ar_prior").state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_sample_grids_are_written(trained: Run) -> None:
    """For what draws."""
    for name in ("decoder", "upsampler_256", "upsampler_1024"):
        assert (trained.folder / f"{name}-samples.png").stat().st_size > 1000


def test_a_finished_run_is_baked_into_a_checkpoint_that_draws(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reader beside it, and a card that has the figures."""
    monkeypatch.setitem(PRESETS, "tiny", trained.preset)
    out = tmp_path / "baked"
    reader = tmp_path / "reader.safetensors"
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "bake",
            str(trained.folder),
            "--preset",
            "tiny",
            "--out",
            str(out),
            "--reader",
            str(reader),
            "--count",
            "4",
        ],
    )
    default_checkpoint.main()
    image = UnCLIP.load(out).generate(["a red cube"], size=64)
    assert image.shape == (1, 3, 64, 64)
    assert torch.isfinite(image).all()
    card = (out / "CARD.md").read_text()
    assert "| two in relation, kept back | 4 |" in card
    assert "Apache-2.0" in card
    assert "| diffusion | 0." in card
    assert "| autoregressive | 0." in card
    assert reader.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("name", "paper"),
    [("prior", 1.2e9), ("ar_prior", 0.8e9), ("upsampler_256", 0.7e9), ("upsampler_1024", 0.3e9)],
)
def test_the_papers_networks_have_its_size(name: str, paper: float) -> None:
    """Table 3, without the text encoders that ours do not have: the widths and depths there, as parameters."""
    config = PRESETS["paper"].config[name] | ({"components": 319} if name == "ar_prior" else {})
    assert sum(p.numel() for p in build_empty(name, config).parameters()) == pytest.approx(
        paper, rel=0.15
    )
