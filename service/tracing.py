"""A span for each request, by OpenTelemetry."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from infra.tracing import is_exporting

# Probes come every few seconds.
UNTRACED = "/healthz$,/readyz$,/metrics$"
# Of the old and of the stable conventions.
QUERY_ATTRIBUTES = ("http.url", "http.target", "url.full", "url.query")


def instrument(app: FastAPI) -> None:
    """Give every request a span with its route's template as name, if spans are exported."""
    if is_exporting():
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        FastAPIInstrumentor.instrument_app(
            app,
            excluded_urls=UNTRACED,
            exclude_spans=["receive", "send"],
            server_request_hook=_remove_query,
        )


def _remove_query(span: Any, scope: dict[str, Any]) -> None:
    """Remove the query, which may hold secrets such as `link`, from a span's attributes."""
    for name in QUERY_ATTRIBUTES:
        if span.is_recording() and (value := span.attributes.get(name)) is not None:
            span.set_attribute(name, value.partition("?")[0] if name != "url.query" else "")
