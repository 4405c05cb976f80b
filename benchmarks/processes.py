"""Memory and import time of processes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from devtools.processes import ManagedProcess


def resident_bytes(process: ManagedProcess) -> int:
    """Return the bytes of memory that a process occupies now (Linux)."""
    return _status_bytes(process, "VmRSS")


def peak_resident_bytes(process: ManagedProcess) -> int:
    """Return the most bytes of memory that a process has occupied (Linux)."""
    return _status_bytes(process, "VmHWM")


def _status_bytes(process: ManagedProcess, field: str) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def import_seconds(module: str, repeats: int = 5) -> float:
    """Return the median seconds of a Python process that only imports `module`."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
