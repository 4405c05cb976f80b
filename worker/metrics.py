"""Prometheus metrics of the worker: what the engine does."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from worker.engine import Engine

_SECONDS = Counter("unclip_stage_seconds", "Time the device worked, by stage.", ["stage"])
_TICKS = Counter("unclip_ticks", "Forward passes, by stage.", ["stage"])
_BATCH = Histogram("unclip_batch_rows", "Rows of one forward pass, by stage.", ["stage"], buckets=(1, 2, 4, 8, 16, 32, 64, 128))
_ROWS = Gauge("unclip_rows_in_flight", "Pictures in the making.")
_FLAGGED = Counter("unclip_pictures_flagged", "Pictures that the content check stopped.", ["pictures"])


def observe(stage: str, rows: int, seconds: float) -> None:
    """One tick."""
    _SECONDS.labels(stage).inc(seconds)
    _TICKS.labels(stage).inc()
    _BATCH.labels(stage).observe(rows)


def flagged(pictures: str, count: int) -> None:
    """So many pictures, given or drawn, were stopped by the content check."""
    _FLAGGED.labels(pictures).inc(count)


def watch(engine: Engine) -> None:
    """Let the gauge ask the engine."""
    _ROWS.set_function(lambda: engine.rows_in_flight)
