"""What is made before work is taken: afterwards no request records anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models import UnCLIP
from models.acceleration.cuda_graphs import Graphs
from worker.engine import warmup
from worker.engine.warmup import record_passes


def again(network: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """A recording without a GPU: the network once more."""
    said = network()
    return lambda: said.copy_(network()), said


def test_requests_find_their_passes_recorded(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guided as by default, of as many rows as ROWS says; an upsampler's no more than its limit."""
    monkeypatch.setattr(warmup, "ROWS", (1, 3, 5))
    pipeline = UnCLIP.load(tiny_checkpoint)
    pipeline.sizes = (64, 256)  # at 1024² a test takes minutes
    pipeline.play(Graphs(again))
    assert pipeline.graphs is not None
    record_passes(
        pipeline,
        dict.fromkeys(("text", "prior", "ar_prior", "decoder"), 64)
        | {"upsampler_256": 2, "upsampler_1024": 1},
    )
    recorded = len(pipeline.graphs)
    assert recorded > 2 * 3
    for count in (1, 3, 5):
        rows = pipeline.short_rows(count, size=256)
        while (stage := rows[0].stage) is not None:
            most = {"upsampler_256": 2, "upsampler_1024": 1}.get(stage, count)
            for at in range(0, count, most):
                pipeline.step(rows[at : at + most])
        assert all(row.error is None for row in rows)
    assert len(pipeline.graphs) == recorded


def test_without_memory_for_more_the_worker_begins_all_the_same(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes of fewer rows stay recorded."""
    pipeline = UnCLIP.load(tiny_checkpoint)
    pipeline.sizes = (64, 256)  # at 1024² a test takes minutes
    pipeline.play(Graphs(again))
    step = pipeline.step

    def narrow(rows: list) -> None:
        if len(rows) > 2:
            raise torch.OutOfMemoryError("no more")
        step(rows)

    monkeypatch.setattr(pipeline, "step", narrow)
    record_passes(
        pipeline,
        dict.fromkeys(
            ("text", "prior", "ar_prior", "decoder", "upsampler_256", "upsampler_1024"), 64
        ),
    )
    assert pipeline.graphs is not None
    assert len(pipeline.graphs) > 0
