"""Fields and a filter for uvicorn's access log."""

from __future__ import annotations

import logging

from structlog.typing import EventDict

LOGGER = "uvicorn.access"
# Probes come every few seconds.
UNLOGGED = ("/healthz", "/readyz", "/metrics")
# uvicorn logs (client, method, path with query, HTTP version, status).
NUM_ARGUMENTS = 5


def skip_probes() -> None:
    """Leave requests of probes and of Prometheus out of the access log."""
    logging.getLogger(LOGGER).addFilter(_is_logged)


def add_request_fields(_logger: object, _name: str, event: EventDict) -> EventDict:
    """Turn a line of the access log into fields: a structlog processor.

    The query is left out: it may hold secrets.
    """
    arguments = event.get("positional_args", ())
    if event["logger"] == LOGGER and len(arguments) == NUM_ARGUMENTS:
        client, method, path, _, status = arguments
        event.update(
            event="request",
            client=client,
            method=method,
            path=path.partition("?")[0],
            status=status,
        )
    return event


def _is_logged(record: logging.LogRecord) -> bool:
    arguments = record.args
    if isinstance(arguments, tuple) and len(arguments) == NUM_ARGUMENTS:
        return arguments[2] not in UNLOGGED
    return True
