"""Variations of an image."""

from __future__ import annotations

import pytest

from training.experiments.harness import Bench
from training.experiments.paper import operations


def test_variations_differ_only_with_noise(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """At eta 0 all seeds give the same image, at eta 1 they do not."""
    monkeypatch.setattr(operations, "ETAS", (0.0, 1.0))
    variations = operations.measure_variations(bench.pipeline, bench.classifier, 2)
    assert variations[0.0].spread < 1e-4
    assert variations[1.0].spread > 1e-4
