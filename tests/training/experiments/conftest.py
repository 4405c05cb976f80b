"""Experiments on the tiny checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from models import UnCLIP
from training.experiments.harness import Bench
from training.scenes.solids.classifier import load_classifier


@pytest.fixture(scope="session")
def bench(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(UnCLIP.load(tiny_checkpoint), load_classifier(), tmp_path_factory.mktemp("page"))
