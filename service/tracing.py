"""A span for each request, by OpenTelemetry."""

from __future__ import annotations

from fastapi import FastAPI

from infra.tracing import is_exporting

# Probes come every few seconds.
UNTRACED = "/healthz$,/readyz$,/metrics$"


def instrument(app: FastAPI) -> None:
    """Give every request a span with its route's template as name, if spans are exported."""
    if is_exporting():
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        FastAPIInstrumentor.instrument_app(
            app, excluded_urls=UNTRACED, exclude_spans=["receive", "send"]
        )
