"""Prometheus metrics of one worker."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest
import torch
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from support.engine import WAIT_S, FakePipeline, FakeRow

from devtools.ports import free_port
from models.stages import STAGE_NAMES
from worker import metrics
from worker.engine.core import Engine
from worker.engine.observer import MetricsObserver


def value(name: str, **labels: str) -> float:
    """Present value of a metric; 0 if it does not exist."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


class ObservedEngine:
    """An engine whose passes are counted, with a pipeline that waits until it is allowed to run."""

    def __init__(self) -> None:
        self.pipeline = FakePipeline(on_pass=lambda number: self._wait())
        self.allowed = threading.Event()
        # Any: fake rows are no `models.row.Row`.
        self.engine: Any = Engine(
            self.pipeline,  # type: ignore[arg-type]
            dict.fromkeys(STAGE_NAMES, 8),
            MetricsObserver(),
        )
        metrics.watch_engine(lambda: self.engine.num_rows, self.engine.limits)
        self.engine.start()

    def _wait(self) -> None:
        self.allowed.wait(WAIT_S)


@pytest.fixture
def observed() -> Iterator[ObservedEngine]:
    observed = ObservedEngine()
    yield observed
    observed.allowed.set()
    observed.engine.stop()


def test_passes_are_counted_by_stage(observed: ObservedEngine) -> None:
    """With their rows and seconds; the gauge has the images in the engine at the scrape."""
    names = (
        "unclip_forward_passes_total",
        "unclip_stage_seconds_total",
        "unclip_batch_size_sum",
    )
    before = [value(name, stage="decoder") for name in names]
    ticket = observed.engine.submit([FakeRow(name, decoder=1) for name in "abc"])
    assert value("unclip_images_in_flight") == 3
    observed.allowed.set()
    assert ticket.done.wait(WAIT_S)
    observed.engine.stop()
    after = [value(name, stage="decoder") for name in names]
    passes, seconds, rows = (new - old for new, old in zip(after, before, strict=True))
    assert passes == 1
    assert seconds > 0
    assert rows == 3
    assert value("unclip_images_in_flight") == 0


def test_failed_passes_are_counted_by_kind(observed: ObservedEngine) -> None:
    """One that runs out of memory, which halves the limit, and two that fail otherwise."""

    def fail_when(stage: str, names: list[str]) -> Exception | None:
        if len(names) > 4:
            return torch.OutOfMemoryError("too many")
        return RuntimeError("still too many") if len(names) > 1 else None

    observed.pipeline.fail_when = fail_when
    kinds = ("out_of_memory", "other")
    name = "unclip_forward_pass_errors_total"
    before = [value(name, stage="prior", kind=kind) for kind in kinds]
    assert value("unclip_batch_size_limit", stage="prior") == 8
    ticket = observed.engine.submit([FakeRow(str(number), prior=1) for number in range(8)])
    observed.allowed.set()
    assert ticket.done.wait(WAIT_S)
    after = [value(name, stage="prior", kind=kind) for kind in kinds]
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 2]
    assert value("unclip_batch_size_limit", stage="prior") == 4
    assert value("unclip_batch_size_limit", stage="decoder") == 8


def test_waits_and_durations_are_observed_by_operation() -> None:
    """A wait is never negative, even if the service's clock is ahead."""
    names = [
        f"unclip_{name}_{part}"
        for name in ("queue_wait_seconds", "job_duration_seconds")
        for part in ("count", "sum")
    ]
    before = [value(name, operation="edit") for name in names]
    metrics.observe_queue_wait("edit", 3.0)
    metrics.observe_queue_wait("edit", -0.5)
    metrics.observe_job("edit", 7.0)
    after = [value(name, operation="edit") for name in names]
    assert [new - old for new, old in zip(after, before, strict=True)] == [2, 3.0, 1, 7.0]


def test_the_worker_serves_its_metrics_on_a_port() -> None:
    """With versions, checkpoint and device, and without GPU memory on a CPU."""
    metrics.set_build_info("tiny", "cpu")
    port = free_port()
    metrics.serve(port)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as response:
        text = response.read().decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["unclip_build_info"].samples[0].labels == {
        "component": "worker",
        "version": version("unclip-service"),
        "torch": torch.__version__,
        "checkpoint": "tiny",
        "device": "cpu",
    }
    assert "process_resident_memory_bytes" in families
    assert not [name for name in families if "gpu" in name]


def test_a_port_in_use_ends_the_start() -> None:
    """With the name of the setting."""
    port = free_port()
    metrics.serve(port)
    message = f"UNCLIP_WORKER_METRICS_PORT: Address already in use, got {port}"
    with pytest.raises(SystemExit, match=message):
        metrics.serve(port)


def test_gpu_memory_is_reported_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch reports it for the worker's device, and for no other."""
    device = torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "mem_get_info", {device: (3, 16)}.__getitem__)
    monkeypatch.setattr(torch.cuda, "memory_reserved", {device: 8}.__getitem__)
    monkeypatch.setattr(torch.cuda, "memory_allocated", {device: 5}.__getitem__)
    families = list(metrics.GpuMemoryCollector("cuda:1").collect())
    assert {family.name: family.samples[0].value for family in families} == {
        "unclip_gpu_memory_total_bytes": 16,
        "unclip_gpu_memory_free_bytes": 3,
        "unclip_gpu_memory_reserved_bytes": 8,
        "unclip_gpu_memory_allocated_bytes": 5,
    }
