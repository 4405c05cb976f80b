"""RQ underneath, on a real Redis: jobs in threads, slots, retries, timeouts, and what a dead worker leaves behind.

The task is RQ's by name, and finds no pipeline here unless a test gives it one: then it raises, as a broken worker would.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from rq import Queue, Retry
from rq.job import Job

from contracts import redis_keys
from contracts.jobs import Record, now, written
from devtools.wait import wait_until
from models import Row, UnCLIP
from worker.engine.core import Engine, batch_limits
from worker.jobs.cancellation import Cancellations
from worker.jobs.record import JobRecord
from worker.jobs.runner import Context, install
from worker.queue.worker import MAINTENANCE_LOCK_S, ThreadWorker, connect

WAIT_S = 120.0


class InThread(ThreadWorker):
    """A worker in a thread of the test; signals are for processes, so here a flag stops it."""

    def _install_signal_handlers(self) -> None:
        pass

    def start(self) -> None:
        self.thread = threading.Thread(target=self.work, kwargs={"logging_level": "WARNING"})
        self.thread.start()

    def stop(self) -> None:
        self._stop_requested = True
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()


@pytest.fixture
def client(redis_server: Any) -> Iterator[redis.Redis]:
    client = connect(redis_server.url)
    yield client
    client.close()


@pytest.fixture
def worker(client: redis.Redis) -> Iterator[InThread]:
    worker = InThread(client, slots=2, result_ttl=100)
    worker.start()
    yield worker
    if worker.thread.is_alive():
        worker.stop()


def enqueue(
    client: redis.Redis, job_id: str, timeout: int = 60, retries: int = 0, **request: Any
) -> JobRecord:
    """As the service does."""
    fields = written(
        operation="generate",
        status="queued",
        request={"prompt": "a", "size": 64, **request},
        created_at=now(),
    )
    client.hset(redis_keys.job(job_id), mapping=fields)
    queue = Queue(redis_keys.QUEUE, connection=client, serializer="json")
    queue.enqueue_call(
        redis_keys.TASK,
        (job_id,),
        job_id=job_id,
        timeout=timeout,
        retry=Retry(max=retries) if retries else None,
    )
    return JobRecord(client, job_id, 100)


def ended(record: JobRecord) -> Record:
    return wait_until(lambda: found if (found := record.read()) and found.finished_at else None)


def test_a_job_that_raises_is_tried_again_and_then_fails_with_a_reason(
    client: redis.Redis, worker: InThread
) -> None:
    """In the job's own record, and in RQ's books; the worker goes on."""
    records = [enqueue(client, "a", retries=2), enqueue(client, "b")]
    for record in records:
        error = ended(record).error
        assert error is not None
        assert error.kind == "internal"
        assert error.detail == "the worker failed at this job; its log says why"
    worker.stop()
    assert Job.fetch("a", client, serializer="json").retries_left == 0
    assert set(
        Queue(
            redis_keys.QUEUE, connection=client, serializer="json"
        ).failed_job_registry.get_job_ids()
    ) == {"a", "b"}
    assert client.hgetall(redis_keys.OUTCOMES) == {b"generate:failed:error": b"2"}


def test_a_worker_is_seen_while_it_lives_and_signs_off(
    client: redis.Redis, worker: InThread
) -> None:
    """Its beat expires by itself should it die, and goes at once when it stops; when the last one came is kept."""
    told = threading.Event()
    worker.on_beat = told.set
    assert told.wait(WAIT_S)
    assert 0 <= time.time() - float(client.get(redis_keys.LAST_HEARTBEAT)) < WAIT_S
    wait_until(lambda: client.get(redis_keys.worker(worker.name)))
    assert client.smembers(redis_keys.WORKERS) == {worker.name.encode()}
    assert 0 < client.ttl(redis_keys.worker(worker.name)) <= 10
    worker.stop()
    assert client.get(redis_keys.worker(worker.name)) is None


def test_the_beat_goes_on_after_redis_refused_it(client: redis.Redis, worker: InThread) -> None:
    """Else every running job would seem abandoned, and be drawn twice."""
    wait_until(lambda: client.get(redis_keys.worker(worker.name)))
    client.delete(redis_keys.WORKERS)
    client.set(redis_keys.WORKERS, "not a set")
    time.sleep(2.5)  # one beat at least is refused
    client.delete(redis_keys.WORKERS, redis_keys.worker(worker.name))
    wait_until(lambda: client.get(redis_keys.worker(worker.name)))


def test_a_maintenance_lock_left_by_a_killed_worker_does_not_last(
    client: redis.Redis, worker: InThread
) -> None:
    """RQ's own lasts a quarter of an hour, in which nobody would take over abandoned jobs."""
    (queue,) = worker.queues
    worker.stop()
    assert queue.acquire_maintenance_lock()
    assert not queue.acquire_maintenance_lock()
    assert 0 < client.ttl(queue.registry_cleaning_key) <= MAINTENANCE_LOCK_S <= 30


class TestWithAPipeline:
    """Jobs that draw, on an engine whose pipeline can be held."""

    @pytest.fixture
    def gate(
        self, client: redis.Redis, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[threading.Event]:
        """Passes wait until it is set."""
        pipeline = UnCLIP.load(tiny_checkpoint)
        gate = threading.Event()
        step = pipeline.step

        def held(rows: Sequence[Row]) -> None:
            gate.wait(WAIT_S)
            step(rows)

        monkeypatch.setattr(pipeline, "step", held)
        engine = Engine(pipeline, batch_limits(8))
        engine.start()
        install(Context(pipeline, engine, client, Cancellations(client, engine), 100))
        yield gate
        install(None)
        gate.set()
        engine.stop()

    def test_no_more_jobs_than_slots_leave_the_queue(
        self, client: redis.Redis, gate: threading.Event, worker: InThread
    ) -> None:
        """The third waits in the queue, where another worker may take it, and not between queue and execution."""
        records = [enqueue(client, job_id) for job_id in "abc"]
        wait_until(lambda: [record.read().status for record in records[:2]] == ["running"] * 2)  # type: ignore[union-attr]
        time.sleep(1.2)  # the worker has looked again meanwhile
        assert client.lrange(redis_keys.QUEUE_LIST, 0, -1) == [b"c"]
        assert client.llen(f"{redis_keys.QUEUE_LIST}:intermediate") == 0
        gate.set()
        assert [ended(record).status for record in records] == ["succeeded"] * 3

    def test_a_job_over_its_time_fails_and_its_rows_leave(
        self, client: redis.Redis, gate: threading.Event, worker: InThread
    ) -> None:
        """It is told why, not tried again, and its slot is free."""
        gate.set()
        record = enqueue(
            client, "slow", timeout=1, retries=3, decoder_num_inference_steps=1000, n=10
        )
        error = ended(record).error
        assert error is not None
        assert error.kind == "internal"
        assert "took longer than this service allows" in error.detail
        assert ended(enqueue(client, "next")).status == "succeeded"
        worker.stop()
        assert client.hget("rq:job:slow", "retries_left") == b"3"
        assert client.hgetall(redis_keys.OUTCOMES) == {
            b"generate:failed:timeout": b"1",
            b"generate:succeeded": b"1",
        }

    def test_stopping_waits_for_the_jobs_that_run(
        self, client: redis.Redis, gate: threading.Event, worker: InThread
    ) -> None:
        """And takes no other."""
        first = enqueue(client, "a")
        wait_until(lambda: first.read().status == "running")  # type: ignore[union-attr]
        stopping = threading.Thread(target=worker.stop)
        stopping.start()
        time.sleep(1.2)
        second = enqueue(client, "b")
        assert stopping.is_alive()
        gate.set()
        stopping.join(WAIT_S)
        assert [record.read().status for record in (first, second)] == ["succeeded", "queued"]  # type: ignore[union-attr]

    def test_a_job_whose_worker_died_is_drawn_by_another(
        self, client: redis.Redis, gate: threading.Event
    ) -> None:
        """And one whose workers died each time it was tried fails, saying so."""
        again = enqueue(client, "again", retries=1)
        never = enqueue(client, "never")
        dead = InThread(client, slots=2, result_ttl=100)
        for _ in range(2):  # a worker that had begun both and gave no sign since
            job, queue = dead.dequeue_job_and_maintain_ttl(1) or pytest.fail("there is no job")
            execution = dead.prepare_execution(job)
            dead.prepare_job_execution(job, remove_from_intermediate_queue=True)
            JobRecord(client, job.id, 100).start({})
            client.zadd(queue.started_job_registry.key, {execution.composite_key: time.time() - 1})
        gate.set()
        other = InThread(client, slots=2, result_ttl=100)
        other.start()
        try:
            assert ended(again).status == "succeeded"
            error = ended(never).error
            assert error is not None
            assert error.detail == "the worker died at this job, each time it was tried"
        finally:
            other.stop()

    def test_a_job_handed_to_a_worker_that_never_began_it_goes_back(
        self, client: redis.Redis, gate: threading.Event
    ) -> None:
        """Nobody has tried it, so that costs it no try, and it is drawn within seconds. Of jobs that ended, or wait again, only the trace
        is taken away."""
        handed = f"{redis_keys.QUEUE_LIST}:intermediate"
        gate.set()
        ended_before = enqueue(client, "before")
        worker = InThread(client, slots=2, result_ttl=100)
        worker.start()
        try:
            assert ended(ended_before).status == "succeeded"
        finally:
            worker.stop()
        lost = enqueue(client, "lost")
        assert client.lmove(redis_keys.QUEUE_LIST, handed) == b"lost"
        client.lpush(handed, "before", "gone")
        started = time.monotonic()
        other = InThread(client, slots=2, result_ttl=100)
        other.start()
        try:
            assert ended(lost).status == "succeeded"
            assert time.monotonic() - started < 15
            wait_until(lambda: client.llen(handed) == 0)
            assert client.hget(redis_keys.OUTCOMES, "generate:succeeded") == b"2"
            assert client.llen(redis_keys.QUEUE_LIST) == 0
        finally:
            other.stop()
