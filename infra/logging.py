"""Structured logs on stderr: structlog's fields on every line, on those of libraries too."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Sequence
from typing import Any, Literal, cast

import structlog
from structlog.typing import EventDict, Processor

LogFormat = Literal["auto", "json", "console"]


def configure(
    level: str, log_format: LogFormat, logger: str, extra_processors: Sequence[Processor] = ()
) -> None:
    """Set up logging for this process, as JSON or for people.

    Every line carries the context variables that are bound to it, such as the request's id.

    level: lowest level of this project's lines: debug, info, warning or error.
    log_format: "auto" writes JSON unless stderr is a terminal.
    logger: name of the logger that this project's loggers descend from, such as "service".
    extra_processors: structlog processors for lines of libraries. They may read a line's
        arguments from `positional_args`.
    """
    own_level = logging.getLevelNamesMapping()[level.upper()]
    # Libraries log headers and similar details at debug, so their lines start at info.
    library_level = max(own_level, logging.INFO)
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper("iso", utc=True),
    ]
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*processors, *extra_processors, _drop_arguments],
            pass_foreign_args=True,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(log_format),
            ],
        )
    )
    logging.basicConfig(level=library_level, handlers=[handler], force=True)
    logging.getLogger(logger).setLevel(own_level)
    _log_uncaught(logging.getLogger(logger))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *processors,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def bind_request_id(request_id: str) -> None:
    """Start a new logging context that carries this request's id."""
    # Requests of one connection may share a context, so the previous request's is cleared.
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=request_id)


def current_request_id() -> str | None:
    """Return the id of the current request, also in a thread that it started."""
    return cast(str | None, structlog.contextvars.get_contextvars().get("request_id"))


def _log_uncaught(logger: logging.Logger) -> None:
    """Write warnings and the tracebacks of uncaught exceptions in the format of the log."""

    def log_exception(kind: type[BaseException], *details: Any) -> None:
        if issubclass(kind, Exception):
            logger.critical("uncaught exception", exc_info=(kind, *details))
        else:
            sys.__excepthook__(kind, *details)

    def log_thread_exception(arguments: threading.ExceptHookArgs) -> None:
        value = arguments.exc_value or arguments.exc_type()
        if issubclass(arguments.exc_type, Exception):
            details = (arguments.exc_type, value, arguments.exc_traceback)
            logger.critical("uncaught exception in a thread", exc_info=details)

    sys.excepthook = log_exception
    threading.excepthook = log_thread_exception
    logging.captureWarnings(True)


def _drop_arguments(_logger: object, _name: str, event: EventDict) -> EventDict:
    event.pop("positional_args", None)
    return event


def _renderers(log_format: LogFormat) -> list[Processor]:
    if log_format == "json" or (log_format == "auto" and not sys.stderr.isatty()):
        return [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    # The coloured tracebacks show local variables, and prompts are among them.
    return [
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    ]
