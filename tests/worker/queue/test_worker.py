"""The RQ worker on a real Redis: jobs in threads, slots, retries, timeouts and heartbeats."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import redis
from rq.job import Job
from support.jobs import running
from support.queue import (
    WAIT_S,
    WorkerInThread,
    enqueue,
    rq_queue,
    status_of,
    wait_for_end,
    working,
)

from contracts import redis_keys
from devtools.redis_server import RedisServer
from devtools.wait import wait_until
from models import Row, UnCLIP
from worker.queue.worker import MAINTENANCE_LOCK_S, connect_patiently


class FailingRunner:
    """A runner whose every job is a worker error."""

    def run(self, job_id: str) -> None:
        raise RuntimeError(f"job {job_id} does not work")


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    client = connect_patiently(redis_server.url)
    yield client
    client.close()


@pytest.fixture
def failing_worker(client: redis.Redis) -> Iterator[WorkerInThread]:
    with working(client, FailingRunner()) as worker:
        yield worker


@pytest.fixture
def passes_allowed() -> threading.Event:
    """Passes of the pipeline wait until it is set."""
    return threading.Event()


@pytest.fixture
def worker(
    client: redis.Redis, tiny_checkpoint: Path, passes_allowed: threading.Event
) -> Iterator[WorkerInThread]:
    """A worker with two slots and a tiny pipeline."""
    pipeline = UnCLIP.load(tiny_checkpoint)
    step = pipeline.step

    def waiting_step(rows: Sequence[Row]) -> None:
        passes_allowed.wait(WAIT_S)
        step(rows)

    pipeline.step = waiting_step  # type: ignore[method-assign]
    with running(client, pipeline) as runner, working(client, runner) as worker:
        yield worker
        passes_allowed.set()


def test_a_job_that_raises_is_retried_and_then_fails(
    client: redis.Redis, failing_worker: WorkerInThread
) -> None:
    """In the job's own record and in RQ's registries; the worker goes on."""
    for jobs in [enqueue(client, "a", retries=2), enqueue(client, "b")]:
        error = wait_for_end(jobs).outcome.error
        assert error is not None
        assert error.kind == "internal"
        assert error.detail == "worker error, see its log"
    failing_worker.stop()
    assert Job.fetch("a", client, serializer="json").retries_left == 0
    assert set(rq_queue(client).failed_job_registry.get_job_ids()) == {"a", "b"}
    assert client.hgetall(redis_keys.OUTCOMES) == {b"generate:failed:error": b"2"}


def test_a_job_with_another_task_is_refused(
    client: redis.Redis,
    worker: WorkerInThread,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RQ would import and call any function that a record in Redis names."""
    monkeypatch.chdir(tmp_path)
    jobs = enqueue(client, "folder", task="os.mkdir", retries=3)
    error = wait_for_end(jobs).outcome.error
    assert error is not None
    assert error.kind == "internal"
    assert "unknown task 'os.mkdir'" in error.detail
    assert not (tmp_path / "folder").exists()
    wait_until(lambda: rq_queue(client).failed_job_registry.get_job_ids() == ["folder"])
    assert client.llen(redis_keys.QUEUE_LIST) == 0


def test_callbacks_that_a_record_names_are_not_called(
    client: redis.Redis, worker: WorkerInThread, passes_allowed: threading.Event
) -> None:
    """They are names of functions too."""
    passes_allowed.set()
    jobs = enqueue(client, "a")
    client.hset("rq:job:a", "success_callback_name", "os.mkdir")
    assert wait_for_end(jobs).status == "succeeded"
    wait_until(lambda: rq_queue(client).finished_job_registry.get_job_ids() == ["a"])


def test_a_worker_is_registered_while_it_runs(
    client: redis.Redis, failing_worker: WorkerInThread
) -> None:
    """Its heartbeat expires if it dies, and is deleted at once when it stops."""
    called = threading.Event()
    failing_worker.on_heartbeat = called.set
    assert called.wait(WAIT_S)
    last_heartbeat = float(client.get(redis_keys.LAST_HEARTBEAT) or 0)
    assert 0 <= time.time() - last_heartbeat < WAIT_S
    key = redis_keys.worker(failing_worker.name)
    wait_until(lambda: client.get(key))
    assert client.smembers(redis_keys.WORKERS) == {failing_worker.name.encode()}
    assert 0 < client.ttl(key) <= 10
    failing_worker.stop()
    assert client.get(key) is None


def test_heartbeats_go_on_after_redis_refused_one(
    client: redis.Redis, failing_worker: WorkerInThread
) -> None:
    """Otherwise every running job would seem abandoned and run twice."""
    key = redis_keys.worker(failing_worker.name)
    wait_until(lambda: client.get(key))
    client.delete(redis_keys.WORKERS)
    client.set(redis_keys.WORKERS, "not a set")
    # At least one heartbeat is refused.
    time.sleep(2.5)
    client.delete(redis_keys.WORKERS, key)
    wait_until(lambda: client.get(key))


def test_no_more_jobs_than_slots_leave_the_queue(
    client: redis.Redis, worker: WorkerInThread, passes_allowed: threading.Event
) -> None:
    """The third job waits in the queue, where another worker may take it."""
    jobs = [enqueue(client, job_id) for job_id in "abc"]
    wait_until(lambda: [status_of(one) for one in jobs[:2]] == ["running"] * 2)
    # Meanwhile the worker has checked for a free slot again.
    time.sleep(1.2)
    assert client.lrange(redis_keys.QUEUE_LIST, 0, -1) == [b"c"]
    assert client.llen(f"{redis_keys.QUEUE_LIST}:intermediate") == 0
    passes_allowed.set()
    assert [wait_for_end(one).status for one in jobs] == ["succeeded"] * 3


def test_a_job_over_its_time_limit_fails(
    client: redis.Redis, worker: WorkerInThread, passes_allowed: threading.Event
) -> None:
    """It has the reason, is not retried, and its slot is free."""
    passes_allowed.set()
    jobs = enqueue(client, "slow", timeout_s=1, retries=3, decoder_num_inference_steps=1000, n=10)
    error = wait_for_end(jobs).outcome.error
    assert error is not None
    assert error.kind == "internal"
    assert "exceeded this service's time limit" in error.detail
    assert wait_for_end(enqueue(client, "next")).status == "succeeded"
    worker.stop()
    assert client.hget("rq:job:slow", "retries_left") == b"3"
    assert client.hgetall(redis_keys.OUTCOMES) == {
        b"generate:failed:timeout": b"1",
        b"generate:succeeded": b"1",
    }


def test_stopping_waits_for_running_jobs(
    client: redis.Redis, worker: WorkerInThread, passes_allowed: threading.Event
) -> None:
    """Meanwhile no other job is taken."""
    first = enqueue(client, "a")
    wait_until(lambda: status_of(first) == "running")
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    time.sleep(1.2)
    second = enqueue(client, "b")
    assert stopping.is_alive()
    passes_allowed.set()
    stopping.join(WAIT_S)
    assert [status_of(jobs) for jobs in (first, second)] == ["succeeded", "queued"]


def test_the_maintenance_lock_of_a_killed_worker_expires_soon(
    client: redis.Redis, failing_worker: WorkerInThread
) -> None:
    """RQ's own lasts a quarter of an hour, in which no worker takes over abandoned jobs."""
    (queue,) = failing_worker.queues
    failing_worker.stop()
    assert queue.acquire_maintenance_lock()
    assert not queue.acquire_maintenance_lock()
    assert 0 < client.ttl(queue.registry_cleaning_key) <= MAINTENANCE_LOCK_S <= 30
