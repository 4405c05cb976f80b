"""A finished training run of the tiny networks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from training.presets import PRESETS, Preset
from training.run import NETWORKS, Run
from training.trainer.plan import Plan


def build_preset(config: dict[str, object]) -> Preset:
    """Return a preset that takes seconds, yet enough steps for every loss to fall."""
    batches = {"prior": 64, "ar_prior": 64, "decoder": 16, "upsampler_256": 4, "upsampler_1024": 4}
    plans = {
        name: Plan(steps=40, batch=batches.get(name, 32), lr=3e-3, warmup=5) for name in NETWORKS
    }
    return replace(PRESETS["cpu"], scenes=256, rest=64, crops=32, config=config, plans=plans)


@pytest.fixture(scope="session")
def small_run(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    del config["format"]
    run = Run(build_preset(config), tmp_path_factory.mktemp("run"))
    for name in NETWORKS:
        run.train(name)
    return run
