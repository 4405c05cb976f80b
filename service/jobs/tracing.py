"""The span of a job's submission, whose context goes to the worker with the job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.propagate import inject
from opentelemetry.trace import SpanKind


@contextmanager
def enqueue_span(operation: str, job_id: str) -> Iterator[dict[str, str]]:
    """Open a span around the submission of a job.

    Yields W3C's trace context, with which the worker continues the trace; empty without tracing.
    """
    attributes = {"unclip.operation": operation, "unclip.job.id": job_id}
    context: dict[str, str] = {}
    tracer = trace.get_tracer("service")
    with tracer.start_as_current_span(
        f"enqueue {operation}", kind=SpanKind.PRODUCER, attributes=attributes
    ):
        inject(context)
        yield context
