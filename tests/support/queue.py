"""An RQ worker in a thread of the test, and jobs enqueued as the service does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from rq import Queue, Retry
from support.jobs import TTL_S, store_job

from contracts import redis_keys
from contracts.jobs import JobRecord, Progress
from devtools.wait import wait_until
from worker.jobs.record import JobRepository
from worker.queue.worker import Runner, ThreadWorker

WAIT_S = 120.0
WHOLE = Progress(stage="text", step=1, steps=1, fraction=1.0)


class EmptyRunner:
    """A runner whose every job succeeds at once, without an image."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def run(self, job_id: str) -> None:
        jobs = JobRepository(self.client, job_id, TTL_S)
        assert jobs.start({})
        assert jobs.succeed([], [], [], WHOLE)


class WorkerInThread(ThreadWorker):
    """A worker that a flag stops, because signals go to processes."""

    def __init__(self, client: redis.Redis, runner: Runner, slots: int = 2) -> None:
        super().__init__(client, runner=runner, slots=slots, result_ttl_s=TTL_S)

    def _install_signal_handlers(self) -> None:
        pass

    def start(self) -> None:
        """Run the worker in a new thread."""
        self.thread = threading.Thread(target=self.work, kwargs={"logging_level": "WARNING"})
        self.thread.start()

    def stop(self) -> None:
        """Stop the worker and wait for its jobs."""
        self._stop_requested = True
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()


@contextmanager
def working(client: redis.Redis, runner: Runner, slots: int = 2) -> Iterator[WorkerInThread]:
    """Run a worker until the end of the block."""
    worker = WorkerInThread(client, runner, slots)
    worker.start()
    try:
        yield worker
    finally:
        if worker.thread.is_alive():
            worker.stop()


def rq_queue(client: redis.Redis) -> Queue:
    """RQ's view of the queue."""
    return Queue(redis_keys.QUEUE, connection=client, serializer="json")


def enqueue(
    client: redis.Redis,
    job_id: str,
    *,
    timeout_s: int = 60,
    retries: int = 0,
    task: str = redis_keys.TASK,
    **request: Any,
) -> JobRepository:
    """Store a job's record and put the job into the queue."""
    jobs = store_job(client, {"prompt": "a", "size": 64, **request}, job_id=job_id)
    rq_queue(client).enqueue_call(
        task,
        (job_id,),
        job_id=job_id,
        timeout=timeout_s,
        retry=Retry(max=retries) if retries else None,
    )
    return jobs


def wait_for_end(jobs: JobRepository) -> JobRecord:
    """Return the record of a job once it has ended."""

    def ended() -> JobRecord | None:
        record = jobs.read()
        return record if record is not None and record.finished_at is not None else None

    record = wait_until(ended, "the job ends")
    assert record is not None
    return record


def status_of(jobs: JobRepository) -> str:
    """Return the present status of a job that exists."""
    record = jobs.read()
    assert record is not None
    return record.status
