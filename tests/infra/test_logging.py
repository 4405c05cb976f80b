"""The log as it is written, by a new process: the configuration is for a whole process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import logging, structlog
from infra.logging import bind_request_id, configure, current_request_id
configure("{level}", "{format}", "service")
bind_request_id("7")
assert current_request_id() == "7"
structlog.stdlib.get_logger("service.a").info("own", number=3)
structlog.stdlib.get_logger("service.a").debug("own detail")
logging.getLogger("library").info("line of %s", "a library")
logging.getLogger("library").debug("library detail")
def fail(prompt):
    raise RuntimeError("it broke")
try:
    fail("secret prompt")
except RuntimeError:
    logging.getLogger("service.b").exception("failed")
"""


def log_lines(level: str = "info", log_format: str = "auto") -> str:
    """Return what the program writes to stderr, which is not a terminal."""
    program = PROGRAM.replace("{level}", level).replace("{format}", log_format)
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=180, check=True
    )
    assert result.stdout == ""
    return result.stderr


def events(level: str) -> list[str]:
    return [json.loads(line)["event"] for line in log_lines(level).splitlines()]


@pytest.mark.parametrize("log_format", ["auto", "json"])
def test_each_line_is_a_json_object(log_format: str) -> None:
    """Every line names its logger and its request, and a traceback leaves variables out."""
    lines = log_lines(log_format=log_format)
    own, library, failed = map(json.loads, lines.splitlines())
    assert own.pop("timestamp").endswith("Z")
    assert own == {
        "event": "own",
        "number": 3,
        "level": "info",
        "logger": "service.a",
        "request_id": "7",
    }
    assert library["event"] == "line of a library"
    assert library["logger"] == "library"
    assert library["request_id"] == "7"
    assert "positional_args" not in library
    assert failed["level"] == "error"
    assert failed["exception"].endswith("RuntimeError: it broke")
    assert failed["request_id"] == "7"
    assert "secret prompt" not in lines


def test_the_console_format_is_plain_outside_a_terminal() -> None:
    """Without colours, and with tracebacks that leave variables out."""
    lines = log_lines(log_format="console")
    assert "own" in lines
    assert "number=3" in lines
    assert "request_id=7" in lines
    assert "\x1b[" not in lines
    assert "Traceback (most recent call last):" in lines
    assert lines.rstrip().endswith("RuntimeError: it broke")
    assert "secret prompt" not in lines


def test_debug_applies_to_own_lines_only() -> None:
    """Details of libraries may quote headers, so they stay off."""
    assert events("debug") == ["own", "own detail", "line of a library", "failed"]
    assert events("error") == ["failed"]
