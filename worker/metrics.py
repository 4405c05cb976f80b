"""Prometheus metrics of one worker: what its engine does, and the jobs that it draws. What all workers did together stands in Redis,
and the service tells it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import partial
from importlib.metadata import version

import torch
from prometheus_client import REGISTRY, Counter, Gauge, Histogram, Info, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from models.row import STAGES
from worker.engine.core import Engine, is_out_of_memory

_SECONDS = Counter("unclip_stage_seconds", "Time the device worked, by stage.", ["stage"])
_TICKS = Counter("unclip_ticks", "Forward passes, by stage.", ["stage"])
_BATCH = Histogram(
    "unclip_batch_rows",
    "Rows of one forward pass, by stage.",
    ["stage"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128),
)
_LIMIT = Gauge(
    "unclip_batch_limit_rows",
    "Most rows of one forward pass, by stage: halved where they did not fit into memory.",
    ["stage"],
)
_ROWS = Gauge("unclip_rows_in_flight", "Images in the making.")
_FLAGGED = Counter("unclip_images_flagged", "Images that the content check stopped.", ["images"])
_ERRORS = Counter(
    "unclip_pass_errors",
    "Forward passes that failed, by stage and kind: out_of_memory or other.",
    ["stage", "kind"],
)
_WAIT = Histogram(
    "unclip_queue_wait_seconds",
    "Time from a job's acceptance to its first start, by operation.",
    ["operation"],
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600),
)
_JOB_SECONDS = Histogram(
    "unclip_job_duration_seconds",
    "Time from a job's start to its end, by operation, where it succeeded.",
    ["operation"],
    buckets=(0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600),
)
_BEAT = Gauge(
    "unclip_worker_last_heartbeat_timestamp_seconds",
    "When this worker last gave a sign of life that reached Redis.",
)
_BUILD = Info("unclip_build", "What runs here.")
for _stage in (
    STAGES
):  # all of them from the start: a series that begins with its first error has no rate for it
    _SECONDS.labels(_stage), _TICKS.labels(_stage), _BATCH.labels(_stage)
    _ERRORS.labels(_stage, "out_of_memory"), _ERRORS.labels(_stage, "other")
_FLAGGED.labels("given"), _FLAGGED.labels("drawn")


def observe(stage: str, rows: int, seconds: float) -> None:
    """One tick."""
    _SECONDS.labels(stage).inc(seconds)
    _TICKS.labels(stage).inc()
    _BATCH.labels(stage).observe(rows)


def flagged(images: str, count: int) -> None:
    """So many images, given or drawn, were stopped by the content check."""
    _FLAGGED.labels(images).inc(count)


def failed(stage: str, error: Exception) -> None:
    """One tick that did not work."""
    _ERRORS.labels(stage, "out_of_memory" if is_out_of_memory(error) else "other").inc()


def waited(operation: str, seconds: float) -> None:
    """A job was begun after so long in the queue."""
    _WAIT.labels(operation).observe(max(0.0, seconds))  # the service's clock may be ahead of ours


def drawn(operation: str, seconds: float) -> None:
    """A job succeeded in so long."""
    _JOB_SECONDS.labels(operation).observe(seconds)


def beat() -> None:
    """A sign of life has reached Redis."""
    _BEAT.set_to_current_time()


def watch(engine: Engine) -> None:
    """Let the gauges ask the engine."""
    _ROWS.set_function(lambda: engine.rows_in_flight)
    for stage in STAGES:
        _LIMIT.labels(stage).set_function(partial(engine.limits.__getitem__, stage))


def describe(checkpoint: str, device: str) -> None:
    """Tell what runs here, and where it is a GPU, how its memory is used."""
    _BUILD.info(
        {
            "component": "worker",
            "version": version("unclip-service"),
            "torch": torch.__version__,
            "checkpoint": checkpoint,
            "device": device,
        }
    )
    if torch.device(device).type == "cuda":
        REGISTRY.register(GpuMemory(device))


def serve(port: int) -> None:
    """Answer Prometheus on a port of this machine, for as long as the process lives."""
    try:
        start_http_server(port)
    except OSError as error:
        sys.exit(
            f"The settings will not do:\n  UNCLIP_WORKER_METRICS_PORT: {error.strerror}, got {port}; each worker of a machine has its own"
        )


class GpuMemory(Collector):
    """A CUDA device's memory in bytes, asked for at each scrape."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)

    def collect(self) -> Iterable[Metric]:
        free, total = torch.cuda.mem_get_info(self.device)
        for name, help_text, value in (
            ("total", "Memory of the GPU.", total),
            ("free", "Memory of the GPU that no process has.", free),
            (
                "reserved",
                "Memory of the GPU that this worker has.",
                torch.cuda.memory_reserved(self.device),
            ),
            (
                "allocated",
                "Memory of the GPU that this worker's tensors take.",
                torch.cuda.memory_allocated(self.device),
            ),
        ):
            yield GaugeMetricFamily(f"unclip_gpu_memory_{name}_bytes", help_text, value)
