"""CUDA graph capture at start-up: later requests capture nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models import Row, UnCLIP
from models.acceleration.cuda_graphs import CudaGraphs
from models.stages import STAGE_NAMES
from worker.engine import warmup
from worker.engine.warmup import capture_graphs

UPSAMPLER_LIMITS = {"upsampler_256": 2, "upsampler_1024": 1}
LIMITS = dict.fromkeys(STAGE_NAMES, 64) | UPSAMPLER_LIMITS


def run_again(network: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Stand in for a graph on a CPU: replay runs the network once more."""
    output = network()
    return lambda: output.copy_(network()), output


@pytest.fixture
def pipeline(tiny_checkpoint: Path) -> UnCLIP:
    """A pipeline that captures graphs; without 1024², at which the test takes minutes."""
    pipeline = UnCLIP.load(tiny_checkpoint)
    pipeline.sizes = (64, 256)
    pipeline.set_graphs(CudaGraphs(run_again))
    return pipeline


def test_requests_find_their_passes_captured(
    pipeline: UnCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes of each warm-up size, and of no more rows than a stage's limit."""
    monkeypatch.setattr(warmup, "WARMUP_BATCH_SIZES", (1, 3, 5))
    assert pipeline.graphs is not None
    capture_graphs(pipeline, LIMITS)
    num_captured = len(pipeline.graphs)
    assert num_captured > 2 * 3
    for num_rows in (1, 3, 5):
        rows = pipeline.warmup_rows(num_rows, size=256)
        while (stage := rows[0].stage) is not None:
            limit = UPSAMPLER_LIMITS.get(stage, num_rows)
            for start in range(0, num_rows, limit):
                pipeline.step(rows[start : start + limit])
        assert all(row.error is None for row in rows)
    assert len(pipeline.graphs) == num_captured


def test_the_worker_starts_without_memory_for_larger_passes(
    pipeline: UnCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes of fewer rows stay captured."""
    step = pipeline.step

    def limited_step(rows: Sequence[Row]) -> None:
        if len(rows) > 2:
            raise torch.OutOfMemoryError("no more")
        step(rows)

    monkeypatch.setattr(pipeline, "step", limited_step)
    capture_graphs(pipeline, dict.fromkeys(STAGE_NAMES, 64))
    assert pipeline.graphs is not None
    assert len(pipeline.graphs) > 0
