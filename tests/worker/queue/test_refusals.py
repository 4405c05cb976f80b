"""Workers on a Redis that refuses writes: they wait, and every job succeeds once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import redis
from support.jobs import TTL_S
from support.queue import WAIT_S, WHOLE, enqueue, wait_for_end, working

from contracts import redis_keys
from contracts.jobs import ImageInfo, Progress
from devtools.redis_server import RedisServer
from worker.jobs.record import JobRepository
from worker.queue.worker import connect_patiently

REFUSED_S = 2.5
IMAGE = ImageInfo(seed=1, width=64, height=64)
REFUSALS = {"maxmemory": "1", "min-replicas-to-write": "1"}


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    client = connect_patiently(redis_server.url)
    yield client
    client.close()


class HeldRunner:
    """A runner whose jobs report progress and end when `release` is set."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.release = threading.Event()
        self.running: list[str] = []
        self.most_runs = 0

    def run(self, job_id: str) -> None:
        jobs = JobRepository(self.client, job_id, TTL_S)
        if not jobs.start({}):
            return
        self.running.append(job_id)
        self.most_runs = max(self.most_runs, self.running.count(job_id))
        while not self.release.wait(0.1):
            jobs.update_progress(Progress(stage="decoder", step=1, steps=2, fraction=0.5))
        self.running.remove(job_id)
        jobs.succeed([b"png"], [IMAGE], [], WHOLE)


@pytest.mark.parametrize("setting", REFUSALS)
def test_a_worker_outlives_refused_writes(client: redis.Redis, setting: str) -> None:
    """While jobs wait, run and end. No retry is spent, and each job ends once."""
    ids = [f"job{number}" for number in range(6)]
    jobs = [enqueue(client, job_id, retries=1) for job_id in ids]
    runner = HeldRunner(client)
    with working(client, runner, slots=4) as worker:
        while len(runner.running) < 4:
            time.sleep(0.05)
        client.config_set(setting, REFUSALS[setting])
        time.sleep(REFUSED_S)
        runner.release.set()
        time.sleep(REFUSED_S)
        assert worker.thread.is_alive()
        client.config_set(setting, "0")
        assert [wait_for_end(one).status for one in jobs] == ["succeeded"] * 6
        assert worker.thread.is_alive()
    assert client.hgetall(redis_keys.OUTCOMES) == {b"generate:succeeded": b"6"}
    assert {client.hget(f"rq:job:{job_id}", "retries_left") for job_id in ids} == {b"1"}


def test_a_worker_outlives_replies_that_it_does_not_know(client: redis.Redis) -> None:
    """It goes on once the queue can be read again."""
    client.set(redis_keys.QUEUE_LIST, "not a list")
    with working(client, HeldRunner(client)) as worker:
        time.sleep(REFUSED_S)
        assert worker.thread.is_alive()
        client.delete(redis_keys.QUEUE_LIST)


def test_a_worker_stops_while_redis_refuses_writes(client: redis.Redis) -> None:
    """Its heartbeat expires by itself."""
    with working(client, HeldRunner(client)) as worker:
        time.sleep(1)
        client.config_set("min-replicas-to-write", "1")
        # The worker is in the middle of a refused command.
        time.sleep(REFUSED_S)
        started_at = time.monotonic()
        worker.stop()
        assert time.monotonic() - started_at < WAIT_S / 2


def test_a_running_job_is_not_run_again(client: redis.Redis) -> None:
    """Another worker may have queued it again: the second run waits for the first."""
    jobs = enqueue(client, "a", retries=1)
    runner = HeldRunner(client)
    with working(client, runner) as worker:
        while not runner.running:
            time.sleep(0.05)
        worker.queues[0].push_job_id("a")
        while client.llen(redis_keys.QUEUE_LIST):
            time.sleep(0.05)
        time.sleep(1)
        runner.release.set()
        assert wait_for_end(jobs).status == "succeeded"
    assert runner.most_runs == 1
    assert client.hgetall(redis_keys.OUTCOMES) == {b"generate:succeeded": b"1"}
    assert client.zcard(redis_keys.STARTED) == 0
    events = [fields[b"event"] for _, fields in client.xrange(redis_keys.events("a"))]
    assert events.count(b"ended") == 1
