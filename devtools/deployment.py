"""Redis, the service and workers as processes on free ports, in a temporary folder."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import redis

from contracts import redis_keys
from contracts.jobs import WorkerHeartbeat
from devtools.ports import free_port
from devtools.processes import ManagedProcess
from devtools.redis_server import RedisServer
from devtools.wait import TIMEOUT_S, wait_until

STOP_GRACE_S = 60.0


class LocalDeployment:
    """A whole deployment for tests and benchmarks, reached over HTTP and through Redis.

    Use it as a context manager: it is ready inside the block and gone after it. Settings are
    keywords: `max_batch_size=8` sets UNCLIP_MAX_BATCH_SIZE for the service and all workers.
    """

    def __init__(
        self,
        num_workers: int = 1,
        *,
        worker: Sequence[str] = ("worker",),
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        **settings: object,
    ) -> None:
        """`worker` is what `python -m` runs as a worker; logs and data go to `folder`."""
        self.num_workers = num_workers
        self._worker_module = tuple(worker)
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="unclip-")
        self.folder = folder or Path(self._temporary.name)  # type: ignore[union-attr]
        self.redis = RedisServer(self.folder)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {
            **os.environ,
            **(environment or {}),
            "UNCLIP_REDIS_URL": self.redis.url,
            "UNCLIP_PORT": str(port),
            **{f"UNCLIP_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.http = httpx.Client(
            base_url=self.url, timeout=TIMEOUT_S, limits=httpx.Limits(max_connections=1000)
        )
        self.store: Any = redis.Redis.from_url(self.redis.url)
        self.processes: list[ManagedProcess] = []
        self.workers: list[ManagedProcess] = []
        self.service = self._process("service", ["service"])

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start Redis, the service and the workers; return once `/readyz` answers with 200."""
        self.redis.start()
        self.service.start()
        for _ in range(self.num_workers):
            self.start_worker()
        self.wait_until(lambda: self.answers("/healthz"), "the service is up")
        self.wait_for_workers()
        if self.workers:
            self.wait_until(lambda: self.answers("/readyz"), "the service is ready")

    def kill(self) -> None:
        """End all processes at once and remove the temporary folder."""
        for process in reversed(self.processes):
            process.kill()
        self.redis.stop()
        self.http.close()
        self.store.close()
        if self._temporary:
            self._temporary.cleanup()

    def start_worker(self) -> ManagedProcess:
        """Start one more worker, without waiting until it is registered."""
        worker = self._process("worker", self._worker_module)
        worker.start()
        self.workers.append(worker)
        return worker

    def stop_worker(self) -> None:
        """Stop the newest worker; it finishes its jobs and unregisters."""
        self.workers.pop().stop(STOP_GRACE_S)

    def kill_worker(self) -> str:
        """Kill the oldest worker as a crash would, and return its name in Redis."""
        worker = self.workers.pop(0)
        name = self.worker_name(worker)
        worker.kill()
        return name

    def wait_until(
        self,
        condition: Callable[[], Any],
        description: str,
        *,
        timeout_s: float = TIMEOUT_S,
        poll_s: float = 0.05,
    ) -> Any:
        """Wait as `devtools.wait` does, but fail at once if the service or a worker has ended.

        Raises:
            RuntimeError: a process has ended; the message quotes the end of its log.
            TimeoutError: `condition` stayed false.
        """

        def check() -> Any:
            for process in (self.service, *self.workers):
                if process.exit_code is not None:
                    raise RuntimeError(
                        f"waiting until {description}: the {process.name} ended with "
                        f"{process.exit_code}:\n{process.log_text()[-3000:]}"
                    )
            return condition()

        return wait_until(check, description, timeout_s=timeout_s, poll_s=poll_s)

    def wait_for_workers(self) -> None:
        """Wait until all workers have sent a heartbeat."""
        self.wait_until(self._workers_are_registered, f"{len(self.workers)} workers are up")

    def _workers_are_registered(self) -> bool:
        pids = {heartbeat.pid for heartbeat in self.heartbeats().values()}
        return {worker.pid for worker in self.workers} <= pids

    def answers(self, path: str) -> bool:
        """Return whether a GET of `path` succeeds."""
        try:
            return self.http.get(path).status_code == 200
        except httpx.TransportError:
            return False

    def submit(self, **request: object) -> str:
        """POST a request to /generate and return the id of its job."""
        response = self.http.post("/generate", json=request)
        response.raise_for_status()
        return str(response.json()["id"])

    def stored_statuses(self, ids: Sequence[str]) -> list[str]:
        """Return the statuses of jobs, read from Redis at no cost to the service."""
        with self.store.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hget(redis_keys.job(job_id), "status")
            return [status.decode() if status else "expired" for status in pipe.execute()]

    def num_succeeded(self) -> int:
        """Return how many jobs of /generate have succeeded."""
        field = redis_keys.outcome("generate", "succeeded")
        return int(self.store.hget(redis_keys.OUTCOMES, field) or 0)

    def heartbeats(self) -> dict[str, WorkerHeartbeat]:
        """Return the last heartbeat of each live worker, by the worker's name."""
        names = [name.decode() for name in self.store.smembers(redis_keys.WORKERS)]
        values = {name: self.store.get(redis_keys.worker(name)) for name in names}
        return {
            name: WorkerHeartbeat.model_validate_json(value)
            for name, value in values.items()
            if value
        }

    def worker_name(self, worker: ManagedProcess) -> str:
        """Return the name in Redis of a worker process."""
        (name,) = (
            name for name, heartbeat in self.heartbeats().items() if heartbeat.pid == worker.pid
        )
        return name

    def job_worker(self, job_id: str) -> str | None:
        """Return the name of the worker that runs a job, or None; RQ records it."""
        name = self.store.hget(f"rq:job:{job_id}", "worker_name")
        return None if name is None else str(name.decode())

    def _process(self, name: str, module: Sequence[str]) -> ManagedProcess:
        process = ManagedProcess(
            name,
            [sys.executable, "-m", *module],
            self.environment,
            self.folder / f"{name}-{len(self.processes)}.log",
        )
        self.processes.append(process)
        return process
