"""Export of spans, which the environment turns on. Each case runs in a new process."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
from infra import tracing
tracing.start("unclip-example")
print(tracing.is_exporting())
tracing.flush()
"""


def run(**environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    return result.stdout.strip()


def test_tracing_is_off_by_default() -> None:
    """Nothing is exported, and `flush` has no effect."""
    assert run() == "False"


def test_an_endpoint_turns_tracing_on() -> None:
    """No connection is needed until there is a span."""
    assert run(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9") == "True"
