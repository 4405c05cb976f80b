"""The service's log: structlog's fields on every line, those of other libraries included. `worker/logs.py` is its twin: the floor that
both could import has no structlog."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from structlog.typing import Processor

from service.settings import Settings


def configure(settings: Settings) -> None:
    """Set up logging for this process: on stderr, JSON or for people. Lines carry what is bound to the request, such as its id."""
    # Of other libraries nothing below info: what they carry, such as headers, is theirs to tell at debug.
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    fields: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper("iso", utc=True),
    ]
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*fields, _access],
            pass_foreign_args=True,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(settings.log_format),
            ],
        )
    )
    logging.basicConfig(level=max(level, logging.INFO), handlers=[handler], force=True)
    logging.getLogger("service").setLevel(level)
    logging.getLogger("uvicorn.access").addFilter(_worth_a_line)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *fields,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _worth_a_line(record: logging.LogRecord) -> bool:
    """Not what machines ask every few seconds."""
    asked = record.args[2] if isinstance(record.args, tuple) and len(record.args) == 5 else None
    return asked not in ("/healthz", "/readyz", "/metrics")


def _rendering(form: str) -> list[Processor]:
    if form == "json" or (form == "auto" and not sys.stderr.isatty()):
        return [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    # Plain tracebacks: the coloured ones show local variables, and prompts among them.
    return [
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    ]


def _access(logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """uvicorn's line of a request in fields, without the query: what clients put there is not for logs."""
    args = event.pop("positional_args")
    if event["logger"] == "uvicorn.access" and len(args) == 5:
        client, method, path, _, status = args
        event.update(
            event="request",
            client=client,
            method=method,
            path=path.partition("?")[0],
            status=status,
        )
    return event
