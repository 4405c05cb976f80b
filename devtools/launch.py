"""`make run`: run Redis, a worker and the service on this machine; Ctrl-C stops them.

Processes that end are started again. They are stopped in the order service, worker, Redis, so that
running jobs finish first.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from devtools.ports import free_port, is_free
from devtools.processes import ManagedProcess
from devtools.redis_server import redis_command

FOLDER = Path(".run").resolve()  # of the current folder, so that each checkout has its own
URL_FILE = FOLDER / "redis-url"
STEADY_S = 30.0  # a process that ran for longer is restarted without a growing delay
MAX_DELAY_S = 30.0
GRACE_S = 60.0  # for a worker to finish its jobs; the rest stay in Redis for the next start
POLL_S = 0.5


class SupervisedProcess(ManagedProcess):
    """A process that is restarted when it ends, after a delay that doubles with every crash."""

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str]) -> None:
        super().__init__(name, command, environment)
        self._delay_s = 1.0
        self._started_at = 0.0
        self._restart_at: float | None = None

    def start(self) -> None:
        super().start()
        self._started_at = time.monotonic()
        self._restart_at = None

    def restart_if_dead(self) -> None:
        """Start the process again once it has ended and the delay has passed."""
        if self.is_running:
            return
        now = time.monotonic()
        if self._restart_at is None:
            was_steady = now - self._started_at > STEADY_S
            self._delay_s = 1.0 if was_steady else min(self._delay_s * 2, MAX_DELAY_S)
            self._restart_at = now + self._delay_s
            _print(
                f"The {self.name} ended with {self.exit_code}; restart in {self._delay_s:.0f} s."
            )
        elif now >= self._restart_at:
            self.start()

    def shut_down(self) -> None:
        """Stop the process, with a message if it had to be killed."""
        if not self.stop(GRACE_S):
            _print(
                f"The {self.name} did not end within {GRACE_S:.0f} s and was killed. "
                "Unfinished jobs resume at the next start."
            )


def run() -> None:
    """Start all processes and supervise them until SIGINT or SIGTERM."""
    host = os.environ.get("UNCLIP_HOST", "127.0.0.1")
    port = os.environ.get("UNCLIP_PORT", "8000")
    if not port.isdigit() or not is_free(host, int(port)):
        sys.exit(
            f"Port {port} of {host} is in use or invalid. "
            "Choose another one: UNCLIP_PORT=8001 make run"
        )
    processes = _processes()
    address = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    stop_requested = False

    def request_stop(signum: int, frame: object) -> None:
        nonlocal stop_requested
        stop_requested = True

    signal.signal(signal.SIGINT, request_stop)
    signal.signal(signal.SIGTERM, request_stop)
    _print(f"Starting on {address} …")
    try:
        for process in processes:
            process.start()
        is_announced = False
        while not stop_requested:
            for process in processes:
                process.restart_if_dead()
            if not is_announced and is_ready(address):
                is_announced = True
                _print(_welcome(address))
            time.sleep(POLL_S)
    finally:
        _print("Stopping; running jobs finish first.")
        for process in reversed(processes):
            process.shut_down()
        URL_FILE.unlink(missing_ok=True)


def _processes() -> list[SupervisedProcess]:
    """Return the processes in the order of their start, and publish the URL of Redis."""
    FOLDER.mkdir(exist_ok=True)
    processes = []
    url = os.environ.get("UNCLIP_REDIS_URL")
    if not url:
        data = FOLDER / "redis"
        data.mkdir(exist_ok=True)
        port = free_port()
        url = f"redis://127.0.0.1:{port}/0"
        processes.append(SupervisedProcess("Redis", redis_command(port, data), dict(os.environ)))
    URL_FILE.write_text(url)
    gallery = {"UNCLIP_GALLERY_URL": f"sqlite:///{FOLDER}/gallery.db"}
    environment = {**gallery, **os.environ, "UNCLIP_REDIS_URL": url}
    for name in ("worker", "service"):
        processes.append(SupervisedProcess(name, [sys.executable, "-m", name], environment))
    return processes


def is_ready(address: str) -> bool:
    """Return whether the service reports that it and a worker are up."""
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def exec_with_redis(module: str, *arguments: str) -> None:
    """Replace this process by `python -m module` on the Redis of `make run`."""
    url = os.environ.get("UNCLIP_REDIS_URL")
    if url is None and URL_FILE.exists():
        url = URL_FILE.read_text()
    if url is None:
        sys.exit("No Redis found: start `make run` or set UNCLIP_REDIS_URL.")
    command = [sys.executable, "-m", module, *arguments]
    os.execve(sys.executable, command, {**os.environ, "UNCLIP_REDIS_URL": url})


def _welcome(address: str) -> str:
    host = address.replace("127.0.0.1", "localhost")
    return f"""
Ready: {host}   (Ctrl-C stops it)

  curl -s {host}/generate -H 'Prefer: wait=60' -H 'Accept: image/png' \\
       -H 'content-type: application/json' \\
       -d '{{"prompt": "a red cube on top of a blue cube", "seed": 1}}' -o out.png
"""


def _print(message: str) -> None:
    print(message, flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["worker"]:
        exec_with_redis("worker")
    elif sys.argv[1:2] == ["keys"]:
        exec_with_redis("service", *sys.argv[1:])
    else:
        run()
