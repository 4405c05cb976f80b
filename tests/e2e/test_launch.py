"""`make run` starts everything, restarts what ends, and stops everything."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from contracts import redis_keys
from contracts.jobs import WorkerHeartbeat
from devtools.ports import free_port
from devtools.processes import ManagedProcess
from devtools.wait import TIMEOUT_S, wait_until

ROOT = Path(__file__).parents[2]
LAUNCH = [sys.executable, "-m", "devtools.launch"]


@pytest.fixture
def environment(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """Return the launcher's environment, without a Redis.

    The launcher runs in a folder of the test, since it keeps its data in the current one.
    """
    monkeypatch.chdir(tmp_path)
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("UNCLIP_")
    }
    return inherited | {
        "PYTHONPATH": str(ROOT),
        "UNCLIP_CHECKPOINT": str(tiny_checkpoint),
        "UNCLIP_DEVICE": "cpu",
        "UNCLIP_THREADS": "1",
        "UNCLIP_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def launcher(environment: dict[str, str], tmp_path: Path) -> Iterator[ManagedProcess]:
    """Return the running launcher."""
    process = ManagedProcess("launcher", LAUNCH, environment, tmp_path / "output")
    process.start()
    yield process
    process.stop(TIMEOUT_S)


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def find_worker(store: redis.Redis, killed: int | None = None) -> int | None:
    """Return the process id of a registered worker that is alive and is not the killed one."""
    for name in store.smembers(redis_keys.WORKERS):
        heartbeat = store.get(redis_keys.worker(name.decode()))
        if heartbeat:
            pid = WorkerHeartbeat.model_validate_json(heartbeat).pid
            if pid != killed and is_alive(pid):
                return pid
    return None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_one_command_starts_restarts_and_stops_everything(
    launcher: ManagedProcess, tmp_path: Path, environment: dict[str, str]
) -> None:
    """It prints a working request, replaces a killed worker, and leaves no process behind."""
    port = environment["UNCLIP_PORT"]
    wait_until(lambda: "out.png" in launcher.log_text(), "the launcher announces that it is ready")
    assert f"Ready: http://localhost:{port}" in launcher.log_text()
    assert "curl" in launcher.log_text()
    image = httpx.post(
        f"http://127.0.0.1:{port}/generate",
        json={"prompt": "a cube", "size": 64},
        headers={"prefer": "wait=60", "accept": "image/png"},
        timeout=TIMEOUT_S,
    )
    assert image.status_code == 200
    assert image.content.startswith(b"\x89PNG")

    url_file = tmp_path / ".run" / "redis-url"
    with redis.Redis.from_url(url_file.read_text()) as store:
        killed = wait_until(lambda: find_worker(store), "a worker is registered")
        os.kill(killed, signal.SIGKILL)
        worker = wait_until(lambda: find_worker(store, killed), "another worker is registered")
        redis_pid = store.info("server")["process_id"]
    assert "The worker ended with -9; restart in" in launcher.log_text()

    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(TIMEOUT_S) == 0
    assert not is_alive(worker)
    assert not is_alive(redis_pid)
    assert not url_file.exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/healthz")


@pytest.mark.parametrize("port", ["in use", "eighty", "70000", "0"])
def test_an_invalid_port_is_reported_before_anything_starts(
    environment: dict[str, str], tmp_path: Path, port: str
) -> None:
    """The message names the port and a remedy, without a traceback."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1]) if port == "in use" else port
        result = run_launcher(environment | {"UNCLIP_PORT": port})
    assert result.returncode == 1
    assert f"Port {port} of 127.0.0.1 is in use or invalid" in result.stderr
    assert "UNCLIP_PORT=8001 make run" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / ".run").exists()


@pytest.mark.parametrize("arguments", [["worker"], ["keys", "list"]])
def test_commands_need_a_running_redis(environment: dict[str, str], arguments: list[str]) -> None:
    """`make worker` and the API-key command report what to start."""
    result = run_launcher(environment, *arguments)
    assert result.returncode == 1
    assert "start `make run` or set UNCLIP_REDIS_URL" in result.stderr


def run_launcher(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the launcher to its end."""
    return subprocess.run(
        [*LAUNCH, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
