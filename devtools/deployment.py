"""The whole house as processes of this machine, for measuring: Redis, the service and workers, on free ports, in a folder of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import redis

from contracts import redis_keys
from contracts.jobs import WorkerHeartbeat
from devtools.launch import free_port, redis_binary

PATIENCE_S = 300.0


def until(true: Callable[[], Any], what: str, patience: float = PATIENCE_S) -> Any:
    """Poll until it is, and give what it then is; TimeoutError says what never was."""
    deadline = time.monotonic() + patience
    while not (found := true()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {patience:.0f} s still not: {what}")
        time.sleep(0.02)
    return found


def resident_bytes(process: subprocess.Popen[bytes], *, peak: bool = False) -> int:
    """Memory that a process holds now, or has held at most (Linux)."""
    told = Path(f"/proc/{process.pid}/status").read_text()
    return int(told.split("VmHWM:" if peak else "VmRSS:")[1].split()[0]) * 1024


@contextmanager
def process(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block, and all that it started."""
    started = subprocess.Popen(command, start_new_session=True)
    try:
        yield started
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


class House:
    """Everything from `with` on. Workers run `python -m` what is named: the product's own, or another to compare with."""

    def __init__(
        self, workers: int = 1, worker: Sequence[str] = ("worker",), **settings: object
    ) -> None:
        self.worker_command = worker
        self.count = workers
        self.folder = tempfile.TemporaryDirectory(prefix="unclip-")
        redis_port = free_port()
        port = free_port()
        url = f"redis://127.0.0.1:{redis_port}/0"
        self.environment = {
            **os.environ,
            "UNCLIP_REDIS_URL": url,
            "UNCLIP_PORT": str(port),
            "UNCLIP_MAX_QUEUED_JOBS": "1000000",
        }
        self.environment |= {
            f"UNCLIP_{name.upper()}": str(value) for name, value in settings.items()
        }
        self.address = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(
            base_url=self.address, timeout=PATIENCE_S, limits=httpx.Limits(max_connections=1000)
        )
        self.store: Any = redis.Redis.from_url(url)
        self.workers: list[subprocess.Popen[bytes]] = []
        self._logs: dict[
            subprocess.Popen[bytes], Path
        ] = {}  # of every process, in the order that they were started in
        options = [
            "--port",
            str(redis_port),
            "--bind",
            "127.0.0.1",
            "--dir",
            self.folder.name,
            "--save",
            "",
        ]
        self.redis_command = [
            redis_binary(),
            *options,
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
        ]

    def __enter__(self) -> Self:
        try:
            self.redis = self.run(self.redis_command, "redis")
            self.until(self._redis_answers, "Redis answers")
            self.service = self.run([sys.executable, "-m", "service"], "service")
            for _ in range(self.count):
                self.start_worker()
            self.until(
                lambda: self.store.scard(redis_keys.WORKERS) == self.count, "the workers are up"
            )
            self.until(self._ready, "the service is ready")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in reversed(self._logs):
            process.kill()
            process.wait()
        self.http.close()
        self.store.close()
        self.folder.cleanup()

    def until(self, true: Callable[[], Any], what: str) -> None:
        """Poll until it is; RuntimeError with the end of its log where a process has ended before."""

        def true_or_over() -> bool:
            for process, log in self._logs.items():
                if process.poll() is not None:
                    raise RuntimeError(
                        f"not {what}: {log.stem} has ended with {process.returncode}:\n{log.read_text()[-3000:]}"
                    )
            return bool(true())

        until(true_or_over, what)

    def run(self, command: list[str], name: str) -> subprocess.Popen[bytes]:
        """A process that ends with the house, its output in a file of the folder."""
        path = Path(self.folder.name) / f"{name}-{len(self._logs)}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )
        self._logs[process] = path
        return process

    def start_worker(self) -> subprocess.Popen[bytes]:
        """One more worker; it signs on by itself."""
        self.workers.append(self.run([sys.executable, "-m", *self.worker_command], "worker"))
        return self.workers[-1]

    def stop_worker(self) -> None:
        """One worker fewer, which signs off and leaves no job in between: killed ones may have been handed one just then."""
        worker = self.workers.pop()
        worker.terminate()
        worker.wait()

    def accept(self, **request: object) -> str:
        """Ask for an image, and give the job's id."""
        answer = self.http.post("/generate", json=request)
        answer.raise_for_status()
        return str(answer.json()["id"])

    def statuses(self, ids: list[str]) -> list[str]:
        """Straight from Redis, so that asking costs the service nothing."""
        with self.store.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hget(redis_keys.job(job_id), "status")
            return [status.decode() if status else "gone" for status in pipe.execute()]

    def have_succeeded(self, count: int) -> bool:
        """Whether so many jobs of /generate have, no fewer and no more."""
        return self.succeeded() == count

    def succeeded(self) -> int:
        """How many jobs of /generate have."""
        return int(
            self.store.hget(redis_keys.OUTCOMES, redis_keys.outcome("generate", "succeeded")) or 0
        )

    def name_of(self, worker: subprocess.Popen[bytes]) -> str:
        """What a worker calls itself in Redis."""
        names = [name.decode() for name in self.store.smembers(redis_keys.WORKERS)]
        beats = {name: self.store.get(redis_keys.worker(name)) for name in names}
        return next(
            str(name)
            for name, beat in beats.items()
            if beat and WorkerHeartbeat.model_validate_json(beat).pid == worker.pid
        )

    def owner(self, job_id: str) -> str | None:
        """The worker that runs a job, or ran it last, by RQ's books; None where there is none, or no more."""
        name = self.store.hget(f"rq:job:{job_id}", "worker_name")
        return None if name is None else str(name.decode())

    def _redis_answers(self) -> bool:
        try:
            return bool(self.store.ping())
        except redis.ConnectionError:
            return False

    def _ready(self) -> bool:
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False
