"""Traces by OpenTelemetry, exported over OTLP.

Off unless OTEL_EXPORTER_OTLP_ENDPOINT is set. The SDK reads its other settings from the environment
too. Without the SDK, OpenTelemetry's API does nothing. No span carries a prompt.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import cast

from opentelemetry import trace

from infra.version import installed_version

SWITCHES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def start(service_name: str) -> None:
    """Export this process's spans if the environment names an endpoint.

    service_name: the `service.name` of the spans, unless OTEL_SERVICE_NAME is set.
    Raises RuntimeError if an endpoint is set and the SDK is not installed.
    """
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
    resource = Resource.create(
        {
            "service.name": os.environ.get("OTEL_SERVICE_NAME", service_name),
            "service.version": installed_version(),
        }
    )
    # The provider sends what is left when Python exits.
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def is_exporting() -> bool:
    """Return whether this process has an SDK that takes its spans."""
    return _sdk_flush() is not None


def flush() -> None:
    """Send the spans that are still buffered. Blocking."""
    if (send := _sdk_flush()) is not None:
        send()


def _sdk_flush() -> Callable[[], object] | None:
    """Return the SDK's flush function, None without an SDK."""
    provider = trace.get_tracer_provider()
    return cast(Callable[[], object] | None, getattr(provider, "force_flush", None))
