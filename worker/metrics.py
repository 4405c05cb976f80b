"""Prometheus metrics of one worker: its passes, its memory and the jobs that it runs.

Counts over all workers are in Redis, and the service exposes them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.metadata import version

import torch
from prometheus_client import REGISTRY, Counter, Gauge, Histogram, Info, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from models.stages import STAGE_NAMES

_STAGE_SECONDS = Counter(
    "unclip_stage_seconds", "Time that the device worked, by stage.", ["stage"]
)
_PASSES = Counter("unclip_forward_passes", "Forward passes, by stage.", ["stage"])
_BATCH_SIZE = Histogram(
    "unclip_batch_size",
    "Rows of one forward pass, by stage.",
    ["stage"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128),
)
_BATCH_SIZE_LIMIT = Gauge(
    "unclip_batch_size_limit",
    "Maximum rows of one forward pass, by stage; halved when the device runs out of memory.",
    ["stage"],
)
_IMAGES = Gauge("unclip_images_in_flight", "Images that the engine is generating.")
_FLAGGED = Counter(
    "unclip_images_flagged",
    "Images that the content filter flagged, by source: input or output.",
    ["source"],
)
_PASS_ERRORS = Counter(
    "unclip_forward_pass_errors",
    "Failed forward passes, by stage and kind: out_of_memory or other.",
    ["stage", "kind"],
)
_QUEUE_WAIT = Histogram(
    "unclip_queue_wait_seconds",
    "Time from a job's acceptance to its first start, by operation.",
    ["operation"],
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600),
)
_JOB_SECONDS = Histogram(
    "unclip_job_duration_seconds",
    "Time from the start to the end of a successful job, by operation.",
    ["operation"],
    buckets=(0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600),
)
_LAST_HEARTBEAT = Gauge(
    "unclip_worker_last_heartbeat_timestamp_seconds",
    "When this worker's last heartbeat reached Redis.",
)
_BUILD = Info("unclip_build", "Versions, checkpoint and device of this worker.")
# Create every series at start: one that begins with its first error has no rate for it.
for _stage in STAGE_NAMES:
    _STAGE_SECONDS.labels(_stage)
    _PASSES.labels(_stage)
    _BATCH_SIZE.labels(_stage)
    _PASS_ERRORS.labels(_stage, "out_of_memory")
    _PASS_ERRORS.labels(_stage, "other")
_FLAGGED.labels("input")
_FLAGGED.labels("output")


def count_pass(stage: str, rows: int, seconds: float) -> None:
    """Count one forward pass."""
    _STAGE_SECONDS.labels(stage).inc(seconds)
    _PASSES.labels(stage).inc()
    _BATCH_SIZE.labels(stage).observe(rows)


def count_pass_error(stage: str, *, is_out_of_memory: bool) -> None:
    """Count one failed forward pass."""
    _PASS_ERRORS.labels(stage, "out_of_memory" if is_out_of_memory else "other").inc()


def count_flagged(source: str, count: int) -> None:
    """Count images that the content filter flagged; `source` is "input" or "output"."""
    _FLAGGED.labels(source).inc(count)


def observe_queue_wait(operation: str, seconds: float) -> None:
    """Record how long a job waited; below 0 (the service's clock is ahead) counts as 0."""
    _QUEUE_WAIT.labels(operation).observe(max(0.0, seconds))


def observe_job(operation: str, seconds: float) -> None:
    """Record the duration of a successful job."""
    _JOB_SECONDS.labels(operation).observe(seconds)


def record_heartbeat() -> None:
    """Record that a heartbeat has just reached Redis."""
    _LAST_HEARTBEAT.set_to_current_time()


def watch_engine(num_rows: Callable[[], int], limits: Mapping[str, int]) -> None:
    """Read the engine's gauges at each scrape; `limits` is its live table of rows by stage."""
    _IMAGES.set_function(num_rows)
    for stage in STAGE_NAMES:
        _BATCH_SIZE_LIMIT.labels(stage).set_function(partial(limits.__getitem__, stage))


def set_build_info(checkpoint: str, device: str) -> None:
    """Publish versions, checkpoint and device, and on a GPU its memory."""
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
        REGISTRY.register(GpuMemoryCollector(device))


def serve(port: int) -> None:
    """Serve the metrics on a port until the process ends; exit if the port is in use."""
    try:
        start_http_server(port)
    except OSError as error:
        sys.exit(
            f"Invalid settings:\n  UNCLIP_WORKER_METRICS_PORT: {error.strerror}, got {port}. "
            "Each worker of a machine needs a different port."
        )


class GpuMemoryCollector(Collector):
    """Report a CUDA device's memory in bytes, read at each scrape."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)

    def collect(self) -> Iterable[Metric]:
        """Return one gauge for each kind of memory."""
        free, total = torch.cuda.mem_get_info(self.device)
        reserved = torch.cuda.memory_reserved(self.device)
        allocated = torch.cuda.memory_allocated(self.device)
        yield GaugeMetricFamily("unclip_gpu_memory_total_bytes", "Memory of the GPU.", total)
        yield GaugeMetricFamily(
            "unclip_gpu_memory_free_bytes", "Memory of the GPU that no process uses.", free
        )
        yield GaugeMetricFamily(
            "unclip_gpu_memory_reserved_bytes",
            "Memory of the GPU that this worker reserves.",
            reserved,
        )
        yield GaugeMetricFamily(
            "unclip_gpu_memory_allocated_bytes",
            "Memory of the GPU that this worker's tensors use.",
            allocated,
        )
