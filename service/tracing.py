"""Traces by OpenTelemetry: a span a request, and one for the job it enqueues, whose context goes to the worker with the job.

Off unless OTEL_EXPORTER_OTLP_ENDPOINT is set; the SDK's other settings are the environment's too. Without the SDK the API does nothing.
Prompts are in no span. `worker/tracing.py` goes on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.propagate import inject
from opentelemetry.trace import SpanKind

SWITCHES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
UNTRACED = "/healthz$,/readyz$,/metrics$"  # asked for every few seconds, by machines


def start() -> None:
    """Send this process's spans where the environment says, if it does. RuntimeError where what that needs is not installed."""
    if not any(os.environ.get(name) for name in SWITCHES):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise RuntimeError(
            f"{SWITCHES[0]} is set, and {error}: pip install 'unclip-service[telemetry]'"
        ) from error
    told = {
        "service.name": os.environ.get("OTEL_SERVICE_NAME", "unclip-service"),
        "service.version": version("unclip-service"),
    }
    provider = TracerProvider(resource=Resource.create(told))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def install(app: FastAPI) -> None:
    """Give every request a span, once there is somewhere to send it: a route's template is its name."""
    if _flush() is not None:
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        FastAPIInstrumentor.instrument_app(
            app, excluded_urls=UNTRACED, exclude_spans=["receive", "send"]
        )


def flush() -> None:
    """Send what is still here. Blocking. To be called at the end: uvicorn leaves by the signal that ended it, past Python's own exit."""
    if (send := _flush()) is not None:
        send()


@contextmanager
def enqueueing(operation: str, job_id: str) -> Iterator[dict[str, str]]:
    """A span around the enqueueing of a job. Gives what the worker needs to go on from it (W3C's traceparent); nothing where off."""
    attributes = {"unclip.operation": operation, "unclip.job.id": job_id}
    carrier: dict[str, str] = {}
    with trace.get_tracer("service").start_as_current_span(
        f"enqueue {operation}", kind=SpanKind.PRODUCER, attributes=attributes
    ):
        inject(carrier)
        yield carrier


def _flush() -> Any:
    """The SDK's own way to send everything; None where there is no SDK at work."""
    return getattr(trace.get_tracer_provider(), "force_flush", None)
