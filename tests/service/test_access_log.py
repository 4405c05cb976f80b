"""uvicorn's access log in fields, written by a new process."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import logging
from infra.logging import configure
from service import access_log
configure("info", "json", "service", [access_log.add_request_fields])
access_log.skip_probes()
log = logging.getLogger("uvicorn.access")
log.info('%s - "%s %s HTTP/%s" %d', "127.0.0.1:5", "GET", "/readyz", "1.1", 503)
log.info('%s - "%s %s HTTP/%s" %d', "127.0.0.1:5", "GET", "/jobs?cursor=secret", "1.1", 200)
logging.getLogger("uvicorn.error").info("started on %s", 8000)
"""


def test_requests_are_logged_in_fields() -> None:
    """Without the query, which may hold secrets, and without probes."""
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=180, check=True
    )
    access, error = map(json.loads, result.stderr.splitlines())
    assert access.pop("timestamp")
    assert access == {
        "event": "request",
        "client": "127.0.0.1:5",
        "method": "GET",
        "path": "/jobs",
        "status": 200,
        "level": "info",
        "logger": "uvicorn.access",
    }
    assert error["event"] == "started on 8000"
    assert "positional_args" not in error
