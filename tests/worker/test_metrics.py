"""What the worker tells Prometheus of its passes."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Sequence
from importlib.metadata import version

import pytest
import torch
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from devtools.ports import free_port
from models.row import STAGES, Row
from worker import metrics
from worker.engine.core import Engine


class OneStepPipeline:
    """Ends every row at once, when allowed to."""

    def __init__(self) -> None:
        self.allowed = threading.Event()

    def step(self, rows: Sequence[Row]) -> None:
        self.allowed.wait(20)
        for row in rows:
            row.end(error="over")


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_passes_their_rows_and_their_time_are_counted_by_stage() -> None:
    """And the rows in the making are those the engine holds at the moment of asking."""
    pipeline = OneStepPipeline()
    engine = Engine(pipeline, dict.fromkeys(STAGES, 8), metrics.observe)
    metrics.watch(engine)
    names = ("unclip_ticks_total", "unclip_stage_seconds_total", "unclip_batch_rows_sum")
    before = [value(name, stage="decoder") for name in names]
    ticket = engine.submit([Row("a", 0, None, {"decoder": 1}) for _ in range(3)])  # type: ignore[arg-type]
    engine.start()
    try:
        assert value("unclip_rows_in_flight") == 3
        pipeline.allowed.set()
        assert ticket.done.wait(20)
    finally:
        engine.stop()
    ticks, seconds, rows = (
        after - earlier
        for earlier, after in zip(
            before, (value(name, stage="decoder") for name in names), strict=True
        )
    )
    assert ticks == 1
    assert seconds > 0
    assert rows == 3
    assert value("unclip_rows_in_flight") == 0
    first, last = ticket.times["decoder"]
    assert first < last
    assert list(ticket.times) == ["decoder"]


def test_passes_that_fail_are_counted_by_kind_and_the_halved_limit_is_told() -> None:
    """One that did not fit into memory, and one that failed otherwise."""

    class FailingPipeline(OneStepPipeline):
        def step(self, rows: Sequence[Row]) -> None:
            if len(rows) > 4:
                raise torch.OutOfMemoryError("too many")
            if len(rows) > 1:
                raise RuntimeError("too many still")
            super().step(rows)

    pipeline = FailingPipeline()
    pipeline.allowed.set()
    engine = Engine(pipeline, dict.fromkeys(STAGES, 8), metrics.observe, on_error=metrics.failed)
    metrics.watch(engine)
    kinds = ("out_of_memory", "other")
    before = [value("unclip_pass_errors_total", stage="prior", kind=kind) for kind in kinds]
    ticket = engine.submit([Row("a", 0, None, {"prior": 1}) for _ in range(8)])  # type: ignore[arg-type]
    assert value("unclip_batch_limit_rows", stage="prior") == 8
    engine.start()
    try:
        assert ticket.done.wait(20)
    finally:
        engine.stop()
    after = [value("unclip_pass_errors_total", stage="prior", kind=kind) for kind in kinds]
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 2]
    assert value("unclip_batch_limit_rows", stage="prior") == 4
    assert value("unclip_batch_limit_rows", stage="decoder") == 8


def test_waits_and_times_of_jobs_are_told_by_operation() -> None:
    """A clock that is behind the service's does not make a wait negative."""
    names = [
        f"unclip_{name}_{part}"
        for name in ("queue_wait_seconds", "job_duration_seconds")
        for part in ("count", "sum")
    ]
    before = [value(name, operation="edit") for name in names]
    metrics.waited("edit", 3.0)
    metrics.waited("edit", -0.5)
    metrics.drawn("edit", 7.0)
    assert [
        value(name, operation="edit") - old for name, old in zip(names, before, strict=True)
    ] == [2, 3.0, 1, 7.0]


def test_the_worker_answers_on_its_own_port_and_says_what_it_is() -> None:
    """No memory of a GPU where there is none; and a port that is taken ends the start with the setting's name."""
    metrics.describe("tiny", "cpu")
    port = free_port()
    metrics.serve(port)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        families = {
            family.name: family for family in text_string_to_metric_families(answer.read().decode())
        }
    assert families["unclip_build_info"].samples[0].labels == {
        "component": "worker",
        "version": version("unclip-service"),
        "torch": torch.__version__,
        "checkpoint": "tiny",
        "device": "cpu",
    }
    assert "process_resident_memory_bytes" in families
    assert not [name for name in families if "gpu" in name]
    with pytest.raises(
        SystemExit, match=f"UNCLIP_WORKER_METRICS_PORT: Address already in use, got {port}"
    ):
        metrics.serve(port)


def test_a_gpu_s_memory_is_told_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch gives it, of the worker's own device."""
    for name, answer in {
        "mem_get_info": (3, 16),
        "memory_reserved": 8,
        "memory_allocated": 5,
    }.items():
        monkeypatch.setattr(
            torch.cuda,
            name,
            lambda device, answer=answer: answer if device == torch.device("cuda:1") else None,
        )
    told = {
        family.name: family.samples[0].value for family in metrics.GpuMemory("cuda:1").collect()
    }
    assert told == {
        f"unclip_gpu_memory_{name}_bytes": size
        for name, size in (("total", 16), ("free", 3), ("reserved", 8), ("allocated", 5))
    }
