"""A whole house for tests: real Redis, a real service and real workers as processes of their own, spoken to over HTTP."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import redis
from PIL import Image

from contracts import redis_keys
from devtools.ports import free_port
from devtools.redis_server import RedisServer

LONG_S = 180.0  # a busy machine may be slow; an idle one needs seconds
SLOW = {"prompt": "a grey cone", "size": 64, "decoder_num_inference_steps": 300}


def until(true: Callable[[], Any], what: str) -> Any:
    """Poll until it is; returns what it was then."""
    deadline = time.monotonic() + LONG_S
    while not (found := true()):
        assert time.monotonic() < deadline, f"after {LONG_S} s still not: {what}"
        time.sleep(0.05)
    return found


class House:
    """One Redis, one service, and workers as needed."""

    def __init__(self, folder: Path, checkpoint: Path, **settings: str) -> None:
        self.folder = folder
        self.processes = []
        self.redis = RedisServer(folder)
        port = str(free_port())
        self.environment = {
            **os.environ,
            "UNCLIP_REDIS_URL": self.redis.url,
            "UNCLIP_CHECKPOINT": str(checkpoint),
            "UNCLIP_DEVICE": "cpu",
            "UNCLIP_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "UNCLIP_PORT": port,
            **{f"UNCLIP_{name.upper()}": value for name, value in settings.items()},
        }
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LONG_S)

    def start(self, workers: int) -> None:
        self.redis.start()
        self.store = redis.Redis.from_url(self.redis.url)
        self.service = self.run("service")
        self.workers = [self.run("worker") for _ in range(workers)]
        until(lambda: self.answers("/healthz"), "the service is up")
        until(lambda: self.store.scard(redis_keys.WORKERS) == workers, "the workers are up")

    def run(self, module: str) -> subprocess.Popen[bytes]:
        """`python -m module`, its output in a file of the test's folder."""
        with (self.folder / f"{module}-{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.processes.append(process)
        return process

    def answers(self, path: str) -> bool:
        try:
            return self.http.get(path).status_code == 200
        except httpx.TransportError:
            return False

    def post(self, request: dict[str, Any], **headers: str) -> httpx.Response:
        return self.http.post("/generate", json=request, headers=headers)

    def queue(self, count: int, request: dict[str, Any] = SLOW) -> list[str]:
        """Ids of so many jobs, with seeds of their own."""
        answers = [self.post(request | {"seed": seed}) for seed in range(count)]
        assert {answer.status_code for answer in answers} == {202}
        return [answer.json()["id"] for answer in answers]

    def job(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = self.http.get(f"/jobs/{job_id}").json()
        return job

    def statuses(self, ids: list[str]) -> list[str]:
        return [self.job(job_id)["status"] for job_id in ids]

    def all_succeed(self, ids: list[str]) -> None:
        """Each of them, with an image, and counted once."""
        until(lambda: set(self.statuses(ids)) <= {"succeeded", "failed"}, "all jobs have ended")
        for job in map(self.job, ids):
            assert job["status"] == "succeeded", job
            assert opened(self.http.get(job["images"][0]["url"]).content).size == (64, 64)
        assert self.store.hgetall(redis_keys.OUTCOMES) == {b"generate:succeeded": b"%d" % len(ids)}

    def executions(self, worker: subprocess.Popen[bytes]) -> int:
        """How many jobs a worker runs, by RQ's books."""
        names = [name.decode() for name in self.store.smembers(redis_keys.WORKERS)]
        (name,) = [
            name
            for name in names
            if json.loads(self.store.get(redis_keys.worker(name)))["pid"] == worker.pid
        ]
        return int(self.store.scard(f"rq:worker:{name}:executions"))

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.redis.stop()
        self.http.close()
        self.store.close()


@contextmanager
def standing_house(folder: Path, checkpoint: Path) -> Iterator[House]:
    """A house with one worker, for all tests that leave it standing."""
    house = House(folder, checkpoint)
    try:
        house.start(workers=1)
        yield house
    finally:
        house.end()


def opened(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image
