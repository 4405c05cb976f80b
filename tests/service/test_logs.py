"""The log as it is written: by the process that configured it, as that is for the whole process."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = """
import logging, structlog
from service import logs
from service.settings import Settings
logs.configure(Settings(**{settings}))
structlog.contextvars.bind_contextvars(request_id="7")
structlog.stdlib.get_logger("service.a").info("ours", number=3)
structlog.stdlib.get_logger("service.a").debug("our detail")
logging.getLogger("library").info("of %s", "theirs")
logging.getLogger("library").debug("their detail")
logging.getLogger("uvicorn.access").info('%s - "%s %s HTTP/%s" %d', "127.0.0.1:5", "GET", "/readyz", "1.1", 503)
logging.getLogger("uvicorn.access").info('%s - "%s %s HTTP/%s" %d', "127.0.0.1:5", "GET", "/jobs?cursor=geheim", "1.1", 200)
def fail(prompt):
    raise RuntimeError("it broke")
try:
    fail("geheim")
except RuntimeError:
    logging.getLogger("service.b").exception("failed")
"""


def written(**settings: Any) -> str:
    """What comes out at stderr, which is no terminal."""
    program = PROGRAM.replace("{settings}", repr(settings))
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=180, check=True
    )
    assert ended.stdout == ""
    assert "geheim" not in ended.stderr
    return ended.stderr


@pytest.mark.parametrize("form", ["auto", "json"])
def test_each_line_is_an_object_that_tells_whose_it_is(form: str) -> None:
    """Ours, a library's, uvicorn's in fields and without the query, and an error with its trace but not its variables."""
    ours, theirs, access, failed = map(json.loads, written(log_format=form).splitlines())
    assert {
        "event": "ours",
        "number": 3,
        "level": "info",
        "logger": "service.a",
    }.items() <= ours.items()
    assert ours["timestamp"].endswith("Z")
    assert (theirs["event"], theirs["logger"]) == ("of theirs", "library")
    assert (access["event"], access["client"], access["method"]) == (
        "request",
        "127.0.0.1:5",
        "GET",
    )
    assert (access["path"], access["status"]) == ("/jobs", 200)
    assert failed["level"] == "error"
    assert failed["exception"].endswith("RuntimeError: it broke")
    assert {line["request_id"] for line in (ours, theirs, access, failed)} == {"7"}


def test_a_person_reads_lines_and_plain_traces() -> None:
    """Without colours where nobody sees them."""
    lines = written(log_format="console")
    assert "ours" in lines
    assert "number=3" in lines
    assert "request_id=7" in lines
    assert "\x1b[" not in lines
    assert "Traceback (most recent call last):" in lines
    assert lines.rstrip().endswith("RuntimeError: it broke")


def test_the_level_is_ours_above_info() -> None:
    """Of libraries no detail is told, as it may be anything."""
    events = [json.loads(line)["event"] for line in written(log_level="debug").splitlines()]
    assert events == ["ours", "our detail", "of theirs", "request", "failed"]
    assert [json.loads(line)["event"] for line in written(log_level="error").splitlines()] == [
        "failed"
    ]
