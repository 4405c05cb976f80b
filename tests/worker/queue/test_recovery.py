"""What a killed worker leaves behind: started jobs, and jobs that were dequeued and not started."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import redis
from support.jobs import TTL_S
from support.queue import EmptyRunner, WorkerInThread, enqueue, wait_for_end, working

from contracts import redis_keys
from devtools.redis_server import RedisServer
from devtools.wait import wait_until
from worker.jobs.record import JobRepository
from worker.queue.worker import connect_patiently


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    client = connect_patiently(redis_server.url)
    yield client
    client.close()


def crash_at_next_job(client: redis.Redis) -> None:
    """Start a job as a worker that then sends no heartbeat."""
    worker = WorkerInThread(client, EmptyRunner(client))
    dequeued = worker.dequeue_job_and_maintain_ttl(1)
    assert dequeued is not None
    job, queue = dequeued
    execution = worker.prepare_execution(job)
    worker.prepare_job_execution(job, remove_from_intermediate_queue=True)
    JobRepository(client, job.id, TTL_S).start({})
    expired = {execution.composite_key: time.time() - 1}
    client.zadd(queue.started_job_registry.key, expired)


def test_a_job_of_a_crashed_worker_is_retried(client: redis.Redis) -> None:
    """Another worker runs it."""
    jobs = enqueue(client, "a", retries=1)
    crash_at_next_job(client)
    with working(client, EmptyRunner(client)):
        assert wait_for_end(jobs).status == "succeeded"


def test_a_job_that_crashes_every_worker_fails(client: redis.Redis) -> None:
    """The error says so."""
    jobs = enqueue(client, "a")
    crash_at_next_job(client)
    with working(client, EmptyRunner(client)):
        error = wait_for_end(jobs).outcome.error
    assert error is not None
    assert error.detail == "worker crashed on every attempt"
    assert client.hgetall(redis_keys.OUTCOMES) == {b"generate:failed:crashed": b"1"}


def test_a_dequeued_job_that_was_never_started_is_queued_again(client: redis.Redis) -> None:
    """Within seconds and without spending a retry. Entries of other jobs are only removed."""
    intermediate = f"{redis_keys.QUEUE_LIST}:intermediate"
    with working(client, EmptyRunner(client)):
        assert wait_for_end(enqueue(client, "ended")).status == "succeeded"
    lost = enqueue(client, "lost")
    assert client.lmove(redis_keys.QUEUE_LIST, intermediate) == b"lost"
    client.lpush(intermediate, "ended", "deleted")
    started_at = time.monotonic()
    with working(client, EmptyRunner(client)):
        assert wait_for_end(lost).status == "succeeded"
        assert time.monotonic() - started_at < 15
        wait_until(lambda: client.llen(intermediate) == 0)
        assert client.hget(redis_keys.OUTCOMES, "generate:succeeded") == b"2"
        assert client.llen(redis_keys.QUEUE_LIST) == 0
