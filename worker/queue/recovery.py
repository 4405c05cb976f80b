"""Recovery of what dead workers leave behind.

A started job without heartbeats is retried, see `worker.queue.heartbeats`.

A worker that is killed between dequeue and start leaves its job in RQ's intermediate queue. So does
one that is killed shortly before Redis sends it a job, because Redis has not seen the connection
close. RQ counts that as a failure after a minute. Here the job goes back to the queue within
seconds, ahead of jobs of equal priority, and no retry is spent.
"""

from __future__ import annotations

import logging
from typing import Any

import redis
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.executions import Execution
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job, JobStatus
from rq.job_lifecycle import record_job_failure
from rq.worker_registration import clean_worker_registry

from contracts import redis_keys
from infra.redis import server_time
from worker.jobs.record import JobRepository

log = logging.getLogger("worker.queue.recovery")
# Starting a dequeued job takes milliseconds.
DEQUEUE_GRACE_S = 6
# How long maintenance remembers that it has seen a job here.
SEEN_TTL_S = 30


class RecoveringIntermediateQueue(IntermediateQueue):
    """RQ's intermediate queue, whose stuck jobs go back to the queue."""

    def cleanup(self, worker: object, queue: Queue) -> None:
        """Requeue stuck jobs and remove stale entries; one worker calls it every few seconds."""
        for job_id in self.get_job_ids():
            if job_id in queue.started_job_registry:
                continue
            if not self._is_lost(job_id, queue):
                # The job is deleted, has ended or is queued again; only its entry is left.
                self.remove(job_id)
            elif not self._is_recently_dequeued(job_id):
                log.warning("job %s was dequeued and never started; it is queued again", job_id)
                with self.connection.pipeline() as pipe:
                    pipe.lrem(self.key, 1, job_id)
                    queue.push_job_id(job_id, pipeline=pipe, at_front=True)
                    pipe.delete(self.get_first_seen_key(job_id))
                    pipe.execute()

    def _is_lost(self, job_id: str, queue: Queue) -> bool:
        """Return whether a job should be in the queue and is not."""
        job = queue.fetch_job(job_id)
        if job is None or job.get_status() != JobStatus.QUEUED:
            return False
        return self.connection.lpos(queue.key, job_id) is None

    def _is_recently_dequeued(self, job_id: str) -> bool:
        """Return whether maintenance saw the job here first less than DEQUEUE_GRACE_S ago."""
        key = self.get_first_seen_key(job_id)
        self.connection.set(key, 1, nx=True, ex=SEEN_TTL_S)
        # The key expires by the clock of Redis, which is the same for all workers.
        return SEEN_TTL_S - self.connection.ttl(key) < DEQUEUE_GRACE_S


def clean_registries(queue: Queue, result_ttl_s: int) -> None:
    """Recover jobs of dead workers, and remove what has expired from RQ's registries."""
    now_s = server_time(queue.connection).timestamp()
    recover_abandoned_jobs(queue, result_ttl_s)
    queue.intermediate_queue.cleanup(None, queue)  # type: ignore[arg-type]
    queue.finished_job_registry.cleanup(now_s)
    queue.failed_job_registry.cleanup(now_s)
    clean_worker_registry(queue)


def recover_abandoned_jobs(queue: Queue, result_ttl_s: int) -> None:
    """Retry the jobs whose heartbeats have stopped; fail those without retries.

    The caller has just sent its own heartbeats.
    """
    # Any: redis-py's types of replies differ from release to release.
    connection: Any = queue.connection
    if connection.exists(redis_keys.RECOVERY_PAUSE):
        return
    members = [member.decode() for member in connection.zrange(redis_keys.STARTED, 0, -1)]
    with connection.pipeline(transaction=False) as pipe:
        for member in members:
            pipe.exists(_execution(member, connection).key)
        flags = pipe.execute()
    live_jobs = set[str]()
    abandoned = list[Execution]()
    for member, is_live in zip(members, flags, strict=True):
        execution = _execution(member, connection)
        if is_live:
            live_jobs.add(execution.job_id)
        else:
            abandoned.append(execution)
    for execution in abandoned:
        _recover(queue, execution, result_ttl_s, runs_elsewhere=execution.job_id in live_jobs)


def _execution(member: str, connection: redis.Redis) -> Execution:
    return Execution.from_composite_key(member, connection)


def _recover(
    queue: Queue, execution: Execution, result_ttl_s: int, *, runs_elsewhere: bool
) -> None:
    """Take an abandoned execution out of RQ's registry, and retry or fail its job."""
    with queue.connection.pipeline() as pipe:
        try:
            pipe.watch(execution.key)
            if pipe.exists(execution.key):
                return
            job = _fetch(queue, execution.job_id)
            pipe.multi()
            pipe.zrem(redis_keys.STARTED, execution.composite_key)
            # A job in any other state has ended or is queued; only its entry was left.
            is_started = job is not None and job.get_status(False) == JobStatus.STARTED
            if job is not None and is_started and not runs_elsewhere:
                _retry_or_fail(pipe, queue, job, result_ttl_s)
            pipe.execute()
        except redis.WatchError:
            log.debug("job %s has a heartbeat again, or is recovered", execution.job_id)


def _fetch(queue: Queue, job_id: str) -> Job | None:
    try:
        return queue.job_class.fetch(
            job_id, connection=queue.connection, serializer=queue.serializer
        )
    except NoSuchJobError:
        return None


def _retry_or_fail(pipe: Any, queue: Queue, job: Job, result_ttl_s: int) -> None:
    jobs = JobRepository(queue.connection, job.id, result_ttl_s)
    if job.retries_left:
        log.warning(
            "job %s has no heartbeat and is retried: %d retries left", job.id, job.retries_left
        )
        jobs.requeue(pipe)
        job.retry(queue, pipe)
    else:
        detail = "worker crashed on every attempt"
        jobs.fail("internal", detail, "crashed", pipe)
        record_job_failure(job, detail, pipe)
