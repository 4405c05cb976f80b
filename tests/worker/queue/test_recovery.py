"""What a killed worker leaves behind: started jobs, and jobs that were dequeued and not started."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import redis
from support.jobs import TTL_S
from support.queue import EmptyRunner, WorkerInThread, enqueue, status_of, wait_for_end, working

from contracts import redis_keys
from devtools.redis_server import RedisServer
from devtools.wait import wait_until
from worker.jobs.record import JobRepository
from worker.queue.heartbeats import send_heartbeat
from worker.queue.recovery import recover_abandoned_jobs
from worker.queue.worker import connect_patiently

SLEEPING_WORKER = """
import sys, time
from contracts.jobs import Progress
from worker.jobs.record import JobRepository
from worker.queue.worker import ThreadWorker, connect_patiently
client = connect_patiently(sys.argv[1])
class Runner:
    def run(self, job_id):
        jobs = JobRepository(client, job_id, 100)
        if jobs.start({}):
            time.sleep(15)
            jobs.succeed([], [], [], Progress(stage="text", step=1, steps=1, fraction=1.0))
ThreadWorker(client, runner=Runner(), slots=30, result_ttl_s=100).work()
"""


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    client = connect_patiently(redis_server.url)
    yield client
    client.close()


def start_next_job(client: redis.Redis) -> WorkerInThread:
    """Start a job as a worker that sends no heartbeat."""
    worker = WorkerInThread(client, EmptyRunner(client))
    dequeued = worker.dequeue_job_and_maintain_ttl(1)
    assert dequeued is not None
    job, _ = dequeued
    worker.prepare_execution(job)
    JobRepository(client, job.id, TTL_S).start({})
    return worker


def crash_at_next_job(client: redis.Redis) -> None:
    """Start a job as a worker whose heartbeats have stopped."""
    (execution,) = start_next_job(client).executions.values()
    client.delete(execution.key)


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


def test_a_job_with_a_heartbeat_is_not_retried(client: redis.Redis) -> None:
    """Although its worker's clock is half a minute behind."""
    jobs = enqueue(client, "a", retries=1)
    worker = start_next_job(client)
    (execution,) = worker.executions.values()
    client.zadd(redis_keys.STARTED, {execution.composite_key: time.time() - 30})
    recover_abandoned_jobs(worker.queues[0], TTL_S)
    assert client.llen(redis_keys.QUEUE_LIST) == 0
    assert client.zcard(redis_keys.STARTED) == 1
    client.delete(execution.key)
    recover_abandoned_jobs(worker.queues[0], TTL_S)
    assert client.lrange(redis_keys.QUEUE_LIST, 0, -1) == [b"a"]
    assert client.zcard(redis_keys.STARTED) == 0
    assert status_of(jobs) == "queued"


def test_no_job_is_retried_after_a_pause_of_redis(client: redis.Redis) -> None:
    """All heartbeats are late then: workers get time to send one."""
    enqueue(client, "a", retries=1)
    worker = start_next_job(client)
    (execution,) = worker.executions.values()
    client.delete(execution.key)
    client.set(redis_keys.LAST_HEARTBEAT, time.time() - 9)
    send_heartbeat(client, "other", "{}", [])
    recover_abandoned_jobs(worker.queues[0], TTL_S)
    assert client.llen(redis_keys.QUEUE_LIST) == 0
    send_heartbeat(client, worker.name, "{}", [execution])
    client.delete(redis_keys.RECOVERY_PAUSE)
    recover_abandoned_jobs(worker.queues[0], TTL_S)
    assert client.llen(redis_keys.QUEUE_LIST) == 0
    assert client.zcard(redis_keys.STARTED) == 1


def test_a_paused_worker_keeps_its_jobs(redis_server: RedisServer, client: redis.Redis) -> None:
    """A laptop sleeps, or a virtual machine moves: none of 30 jobs with one retry fails."""
    jobs = [enqueue(client, f"job{number}", retries=1) for number in range(30)]
    process = subprocess.Popen([sys.executable, "-c", SLEEPING_WORKER, redis_server.url])
    try:
        wait_until(lambda: [status_of(one) for one in jobs] == ["running"] * 30)
        process.send_signal(signal.SIGSTOP)
        time.sleep(9)
        process.send_signal(signal.SIGCONT)
        assert [wait_for_end(one).status for one in jobs] == ["succeeded"] * 30
        left = {client.hget(f"rq:job:{one.job_id}", "retries_left") for one in jobs}
        assert left == {b"1"}
    finally:
        process.kill()
        process.wait()


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
