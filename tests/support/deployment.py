"""A local deployment with the helpers that tests need, on the tiny checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from support.images import load_png

from contracts import redis_keys
from devtools.deployment import LocalDeployment
from devtools.processes import ManagedProcess

# Takes seconds with the tiny checkpoint: long enough to interfere with it.
SLOW = {"prompt": "a grey cone", "size": 64, "decoder_num_inference_steps": 300}


class DeploymentUnderTest(LocalDeployment):
    """A deployment on one CPU thread whose jobs are posted and checked over HTTP."""

    def __init__(
        self, folder: Path, checkpoint: Path, num_workers: int = 1, **settings: object
    ) -> None:
        super().__init__(
            num_workers,
            folder=folder,
            environment={"OMP_NUM_THREADS": "1"},
            **{"checkpoint": checkpoint, "device": "cpu", "threads": 1} | settings,
        )

    def post_job(self, request: dict[str, Any], **headers: str) -> httpx.Response:
        """POST a request to /generate."""
        return self.http.post("/generate", json=request, headers=headers)

    def post_jobs(self, count: int, request: dict[str, Any] = SLOW) -> list[str]:
        """POST `count` requests with seeds from 0 on, and return the ids of their jobs."""
        responses = [self.post_job(request | {"seed": seed}) for seed in range(count)]
        assert {response.status_code for response in responses} == {202}
        return [response.json()["id"] for response in responses]

    def get_job(self, job_id: str) -> dict[str, Any]:
        """GET a job."""
        job: dict[str, Any] = self.http.get(f"/jobs/{job_id}").json()
        return job

    def get_statuses(self, ids: Sequence[str]) -> list[str]:
        """GET the statuses of jobs."""
        return [self.get_job(job_id)["status"] for job_id in ids]

    def count_outcomes(self) -> Counter[str]:
        """Return how many jobs have ended, by operation and status."""
        outcomes = self.store.hgetall(redis_keys.OUTCOMES)
        return Counter({name.decode(): int(count) for name, count in outcomes.items()})

    def wait_for_end(self, ids: Sequence[str]) -> None:
        """Wait until all of the jobs have ended."""
        ended = {"succeeded", "failed", "cancelled"}
        self.wait_until(lambda: set(self.get_statuses(ids)) <= ended, "all jobs have ended")

    def check_all_succeed(self, ids: Sequence[str], outcomes_before: Counter[str]) -> None:
        """Wait for the jobs; each must succeed with an image and be counted exactly once."""
        self.wait_for_end(ids)
        for job in map(self.get_job, ids):
            assert job["status"] == "succeeded", job
            assert load_png(self.http.get(job["images"][0]["url"]).content).size == (64, 64)
        assert self.count_outcomes() - outcomes_before == {"generate:succeeded": len(ids)}

    def count_executions(self, worker: ManagedProcess) -> int:
        """Return how many jobs a worker runs; RQ records it."""
        return int(self.store.scard(f"rq:worker:{self.worker_name(worker)}:executions"))

    def wait_for_empty_queue(self) -> None:
        """Wait until no job waits or runs."""
        for status in ("queued", "running"):
            params = {"status": status}
            self.wait_until(
                lambda params=params: not self.http.get("/jobs", params=params).json()["jobs"],
                f"no job is {status}",
            )

    def replace_dead_workers(self, num_workers: int) -> None:
        """Start workers until `num_workers` are alive and the service is ready."""
        self.workers = [worker for worker in self.workers if worker.is_running]
        while len(self.workers) < num_workers:
            self.start_worker()
        while len(self.workers) > num_workers:
            self.stop_worker()
        self.wait_for_workers()
        self.wait_until(lambda: self.answers("/readyz"), "the service is ready")
