"""`make run`: one command starts all of it, looks after it, and ends all of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from contracts import redis_keys
from devtools.ports import free_port

LAUNCH = Path(__file__).parents[2] / "devtools/launch.py"
LONG_S = 180.0


def until(true: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + LONG_S
    while not (found := true()):
        assert time.monotonic() < deadline, f"after {LONG_S} s still not: {what}"
        time.sleep(0.1)
    return found


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def environment(tiny_checkpoint: Path) -> dict[str, str]:
    """No Redis is named, so that the launcher brings one of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UNCLIP_")}
    own = {
        "UNCLIP_CHECKPOINT": str(tiny_checkpoint),
        "UNCLIP_DEVICE": "cpu",
        "UNCLIP_THREADS": "1",
        "UNCLIP_PORT": str(free_port()),
    }
    return kept | own | {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def launcher(tmp_path: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The launcher, in a folder of the test's own: a `make run` of this folder's owner is left alone."""
    shutil.copy(LAUNCH, tmp_path)
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, tmp_path / "devtools/launch.py"],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    yield process
    if process.poll() is None:
        process.terminate()
        process.wait(LONG_S)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
def test_one_command_starts_looks_after_and_ends_all_of_it(
    launcher: subprocess.Popen[bytes], tmp_path: Path, environment: dict[str, str]
) -> None:
    """It says when it is ready and how to draw; a worker that dies is started again; Ctrl-C leaves no process behind."""
    address = f"http://127.0.0.1:{environment['UNCLIP_PORT']}"
    output = until(
        lambda: text if "out.png" in (text := (tmp_path / "output").read_text()) else None,
        "it says that it is ready",
    )
    assert f"Ready: http://localhost:{environment['UNCLIP_PORT']}" in output
    assert "curl" in output
    headers = {"prefer": "wait=60", "accept": "image/png"}
    image = httpx.post(
        f"{address}/generate",
        json={"prompt": "a cube", "size": 64},
        headers=headers,
        timeout=LONG_S,
    )
    assert image.status_code == 200
    assert image.content.startswith(b"\x89PNG")

    with redis.Redis.from_url((tmp_path / ".run" / "redis-url").read_text()) as store:

        def pid() -> int | None:
            beats = [
                store.get(redis_keys.worker(name.decode()))
                for name in store.smembers(redis_keys.WORKERS)
            ]
            return next(
                (pid for beat in reversed(beats) if beat and alive(pid := json.loads(beat)["pid"])),
                None,
            )

        first = until(pid, "a worker is there")
        os.kill(first, signal.SIGKILL)
        second = until(
            lambda: found if (found := pid()) != first else None, "another worker is there"
        )
        redis_pid = store.info("server")["process_id"]
    assert second != first
    assert "The worker ended with -9; starting it again" in (tmp_path / "output").read_text()

    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(LONG_S) == 0
    assert not alive(second)
    assert not alive(redis_pid)
    assert not (tmp_path / ".run" / "redis-url").exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/healthz")


@pytest.mark.parametrize("port", ["taken", "eighty", "70000", "0"])
def test_a_port_that_will_not_do_is_said_before_anything_starts(
    tmp_path: Path, environment: dict[str, str], port: str
) -> None:
    """With what would do, and not by a traceback."""
    shutil.copy(LAUNCH, tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1]) if port == "taken" else port
        command = [sys.executable, tmp_path / "devtools/launch.py"]
        given = environment | {"UNCLIP_PORT": port}
        ended = subprocess.run(
            command, env=given, capture_output=True, text=True, timeout=LONG_S, check=False
        )
    assert ended.returncode == 1
    assert f"Port {port} of 127.0.0.1 is taken or cannot be used" in ended.stderr
    assert "UNCLIP_PORT=8001 make run" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / ".run").exists()


@pytest.mark.parametrize("arguments", [["worker"], ["keys", "list"]])
def test_what_runs_beside_needs_a_house_to_run_beside(
    tmp_path: Path, environment: dict[str, str], arguments: list[str]
) -> None:
    """`make worker`, and the command for API keys, where nothing runs, say what to do."""
    shutil.copy(LAUNCH, tmp_path)
    command = [sys.executable, tmp_path / "devtools/launch.py", *arguments]
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=LONG_S, check=False
    )
    assert ended.returncode == 1
    assert "`make run` is not running in this folder" in ended.stderr
