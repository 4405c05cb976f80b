"""OpenTelemetry spans of a job and of the stages that its rows went through.

A job's span is a child of the request's. No span holds a prompt. Exporting starts in
`infra/tracing.py`; without it these calls do nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.propagate import extract
from opentelemetry.trace import SpanKind, Status, StatusCode


@contextmanager
def job_span(job_id: str, operation: str, parent: Mapping[str, str]) -> Iterator[None]:
    """Open the span of a job; `parent` holds the trace headers of the request that enqueued it."""
    with trace.get_tracer("worker").start_as_current_span(
        f"run {operation}",
        extract(parent),
        kind=SpanKind.CONSUMER,
        attributes={"unclip.operation": operation, "unclip.job.id": job_id},
    ):
        yield


def add_stage_spans(stage_times: Mapping[str, tuple[float, float]], num_rows: int) -> None:
    """Add a span for each stage, from its first pass to its last, waits included.

    `stage_times`: start and end by stage, by time.perf_counter().
    """
    # Spans have dates; the engine's clock has none.
    epoch_ns = time.time_ns() - round(time.perf_counter() * 1e9)
    # A copy, because the engine may still be in one of the passes.
    for stage, (started_at, ended_at) in list(stage_times.items()):
        span = trace.get_tracer("worker").start_span(
            stage,
            start_time=epoch_ns + round(started_at * 1e9),
            attributes={"unclip.rows": num_rows},
        )
        span.end(epoch_ns + round(ended_at * 1e9))


def mark_failed(reason: str) -> None:
    """Mark the current span as failed. The error's text is left out: it may quote a prompt."""
    trace.get_current_span().set_status(Status(StatusCode.ERROR, reason))
