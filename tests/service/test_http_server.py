"""The server process: idle connections, slow heads, and a shutdown with open event streams."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from devtools.ports import free_port
from devtools.redis_server import RedisServer
from service import http_server

ROOT = Path(__file__).parents[2]
START_S = 60
# Of the machine, not of the service.
SLACK_S = 4


class ServiceProcess:
    """`python -m service` on a port of its own."""

    def __init__(self, folder: Path, redis_url: str, descriptors: int, **settings: str) -> None:
        self.port = free_port()
        self.log = folder / "service.log"
        environment = os.environ | {
            "UNCLIP_REDIS_URL": redis_url,
            "UNCLIP_PORT": str(self.port),
            **settings,
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["sh", "-c", f"ulimit -n {descriptors}; exec {sys.executable} -m service"],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
            )

    @property
    def url(self) -> str:
        """URL of the service."""
        return f"http://127.0.0.1:{self.port}"

    def wait_until_ready(self) -> None:
        """Wait until the service answers."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                httpx.get(f"{self.url}/healthz", timeout=5)
            except httpx.HTTPError:
                time.sleep(0.1)
            else:
                return
        raise AssertionError(self.log.read_text())

    def connect(self) -> socket.socket:
        """Return a connection that has sent nothing."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=5)


@contextmanager
def running(folder: Path, redis_url: str, descriptors: int) -> Iterator[ServiceProcess]:
    """Run the service in a process."""
    service = ServiceProcess(folder, redis_url, descriptors)
    try:
        service.wait_until_ready()
        yield service
    finally:
        service.process.kill()
        service.process.wait()


def drip(connection: socket.socket, seconds: float) -> bool:
    """Send a byte now and then; return whether the service closes the connection meanwhile."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            connection.sendall(b"a")
        except OSError:
            return True
        time.sleep(0.25)
    return False


def test_idle_connections_make_room_for_new_ones(tmp_path: Path) -> None:
    """With 256 descriptors, 260 idle connections neither keep a client out nor fill the log."""
    url = f"redis://127.0.0.1:{free_port()}/0"
    with running(tmp_path, url, 256) as service, ExitStack() as connections:
        size = service.log.stat().st_size
        for number in range(260):
            connection = connections.enter_context(service.connect())
            if number % 2:
                connection.sendall(b"GET /hea")
        for _ in range(5):
            started_at = time.monotonic()
            answer = httpx.get(f"{service.url}/healthz", timeout=10)
            assert answer.status_code == 200
            assert time.monotonic() - started_at < 1 + SLACK_S
        assert service.log.stat().st_size - size < 20_000
        assert len(os.listdir(f"/proc/{service.process.pid}/fd")) < 200


def test_a_head_that_does_not_end_is_given_up(tmp_path: Path) -> None:
    """Each byte does not extend its time, nor does a finished request before it."""
    url = f"redis://127.0.0.1:{free_port()}/0"
    with (
        running(tmp_path, url, 256) as service,
        service.connect() as dripping,
        service.connect() as used,
    ):
        used.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert used.recv(1000).startswith(b"HTTP/1.1 200")
        used.sendall(b"\r\nGET /hea")
        started_at = time.monotonic()
        dripping.sendall(b"GET /")
        assert drip(dripping, http_server.HEAD_TIMEOUT_S + 20)
        used.settimeout(20)
        while used.recv(1000):
            continue
        assert time.monotonic() - started_at < http_server.HEAD_TIMEOUT_S + 2 * SLACK_S


def test_event_streams_end_at_a_shutdown(tmp_path: Path, redis_server: RedisServer) -> None:
    """The service exits within seconds, and the stream's end is complete."""
    with running(tmp_path, redis_server.url, 256) as service, httpx.Client(timeout=30) as client:
        job = client.post(f"{service.url}/generate", json={"prompt": "a"}).json()
        with client.stream("GET", f"{service.url}/jobs/{job['id']}/events") as stream:
            lines = stream.iter_lines()
            next(lines)
            service.process.send_signal(signal.SIGTERM)
            started_at = time.monotonic()
            for _ in lines:
                continue
        assert service.process.wait(20) in (0, -signal.SIGTERM)
        assert time.monotonic() - started_at < 5 + SLACK_S


@pytest.mark.parametrize(
    ("descriptors", "limit"), [(256, 96), (1024, 480), (64, 8), (1 << 20, 4096)]
)
def test_the_limit_follows_the_descriptors(descriptors: int, limit: int) -> None:
    """A client may need a connection to Redis, too."""
    assert http_server.connection_limit(descriptors) == limit
