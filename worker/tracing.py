"""Traces by OpenTelemetry: a span a job, which goes on from its request's, with one for each stage it went through.

Off unless OTEL_EXPORTER_OTLP_ENDPOINT is set; the SDK's other settings are the environment's too. Without the SDK the API does nothing.
Prompts are in no span. `service/tracing.py` begins.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.propagate import extract
from opentelemetry.trace import SpanKind, Status, StatusCode

from contracts.jobs import Record
from contracts.transitions import Reason
from worker.engine.core import Ticket


@contextmanager
def drawing(job_id: str, record: Record) -> Iterator[None]:
    """A span around a job, a child of the one that enqueued it."""
    attributes = {"unclip.operation": record.operation, "unclip.job.id": job_id}
    tracer = trace.get_tracer("worker")
    parent = extract(record.trace)
    with tracer.start_as_current_span(
        f"draw {record.operation}", parent, kind=SpanKind.CONSUMER, attributes=attributes
    ):
        yield


def stages(ticket: Ticket) -> None:
    """A span for each stage that the rows went through, from its first pass to its last, the waits between them included."""
    zero = time.time_ns() - round(time.perf_counter() * 1e9)  # the engine's clock has no date
    for stage, (began, ended) in list(
        ticket.times.items()
    ):  # the engine may be in a pass of theirs still
        attributes = {"unclip.rows": len(ticket.rows)}
        span = trace.get_tracer("worker").start_span(
            stage, start_time=zero + round(began * 1e9), attributes=attributes
        )
        span.end(zero + round(ended * 1e9))


def failed(reason: Reason) -> None:
    """The job of the present span came to nothing. What it was told is not said here: it may quote a prompt."""
    trace.get_current_span().set_status(Status(StatusCode.ERROR, reason))
