"""The harness that starts deployments: waiting, ports, processes, Redis."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from devtools.deployment import LocalDeployment
from devtools.ports import free_port, is_free
from devtools.processes import ManagedProcess
from devtools.redis_server import RedisServer
from devtools.wait import wait_until, wait_until_async

IGNORE_SIGTERM = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); "
SLEEP = "import time; time.sleep(60)"

StartProcess = Callable[[str], ManagedProcess]


@pytest.fixture
def start_process(tmp_path: Path) -> Iterator[StartProcess]:
    """Return a function that starts a Python program and returns its process."""
    processes = []

    def start(program: str) -> ManagedProcess:
        log = tmp_path / f"{len(processes)}.log"
        process = ManagedProcess("program", [sys.executable, "-c", program], log=log)
        processes.append(process)
        process.start()
        return process

    yield start
    for process in processes:
        process.kill()


def test_wait_until_returns_the_first_true_value() -> None:
    """The condition is called until then."""
    values = iter([0, None, "x"])
    assert wait_until(lambda: next(values), poll_s=0) == "x"


def test_wait_until_names_what_it_waits_for() -> None:
    """The message has the time limit and the description."""
    with pytest.raises(TimeoutError, match="after 0 s, waiting until pigs fly"):
        wait_until(lambda: False, "pigs fly", timeout_s=0.01, poll_s=0)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_wait_until_async_does_the_same() -> None:
    """The event loop runs in between."""
    values = iter([0, "x"])
    assert await wait_until_async(lambda: next(values), poll_s=0) == "x"
    with pytest.raises(TimeoutError, match="waiting until pigs fly"):
        await wait_until_async(lambda: False, "pigs fly", timeout_s=0.01, poll_s=0)


def test_a_port_in_use_is_not_free() -> None:
    """Numbers that are no port are not free either."""
    port = free_port()
    assert is_free("127.0.0.1", port)
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()
        assert not is_free("127.0.0.1", port)
    assert not is_free("127.0.0.1", 0)
    assert not is_free("127.0.0.1", 70_000)


def test_stop_ends_a_process_politely(start_process: StartProcess) -> None:
    """It can be started again, and its log continues."""
    process = start_process("print('hello', flush=True);" + SLEEP)
    wait_until(lambda: "hello" in process.log_text(), "the program has begun")
    assert process.is_running
    assert process.stop(grace_s=30)
    assert not process.is_running
    assert process.exit_code == -signal.SIGTERM
    process.start()
    wait_until(lambda: process.log_text().count("hello") == 2, "it has begun again")


def test_stop_kills_a_process_that_ignores_it(start_process: StartProcess) -> None:
    """The result says that SIGTERM did not suffice."""
    process = start_process(IGNORE_SIGTERM + "time.sleep(60)")
    wait_until(lambda: "up" in process.log_text(), "the program has begun")
    assert not process.stop(grace_s=0.1)
    assert process.exit_code == -signal.SIGKILL


def test_kill_ends_the_children_too(start_process: StartProcess) -> None:
    """A child outlives its parent otherwise."""
    port = free_port()
    child = (
        f"import socket, time; s = socket.socket(); s.bind(('127.0.0.1', {port})); "
        "s.listen(); time.sleep(60)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = start_process(parent)
    wait_until(lambda: not is_free("127.0.0.1", port), "the child listens")
    process.kill()
    wait_until(lambda: is_free("127.0.0.1", port), "the child has ended", timeout_s=10)


def test_redis_keeps_its_data_over_a_stop(tmp_path: Path) -> None:
    """Every write is on disk before its answer."""
    server = RedisServer(tmp_path)
    server.start()
    with redis.Redis.from_url(server.url) as client:
        client.set("name", "value")
        server.stop()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        server.start()
        assert client.get("name") == b"value"
    server.stop()


def test_a_deployment_that_cannot_start_quotes_the_log(tmp_path: Path) -> None:
    """An invalid setting ends the service, and the error has its message."""
    deployment = LocalDeployment(num_workers=0, folder=tmp_path, max_body_bytes="none")
    with pytest.raises(RuntimeError, match=r"the service ended with 1:\n(.|\n)*MAX_BODY_BYTES"):
        deployment.__enter__()
    assert not deployment.redis.process.is_running
