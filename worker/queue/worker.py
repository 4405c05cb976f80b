"""RQ underneath: jobs as threads of one process, so that the loaded pipeline serves them all.

RQ's own worker forks for each job, which would throw the pipeline away. This one keeps RQ's books (registries, retries,
heartbeats) and changes three things: jobs run in threads; a slot is taken before a job is dequeued, so that none
lies between queue and execution when the process is killed; and signals only set a flag, so that none interrupts a dequeue.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import redis
from rq import Queue
from rq.exceptions import AbandonedJobError, DequeueTimeout
from rq.executions import Execution
from rq.job import Job
from rq.timeouts import TimerDeathPenalty
from rq.worker import BaseWorker

from contracts import redis_keys
from contracts.jobs import WorkerHeartbeat
from contracts.transitions import Reason
from infra.queue import PriorityQueue
from infra.redis import connect as connect_to
from worker.jobs.record import JobRecord
from worker.queue.recovery import Handed

log = logging.getLogger("worker.rq")
BEAT_S = 2
HEARTBEAT_TTL_S = 6  # a job whose worker gave no sign for so long is given to another
MAINTENANCE_S = 3
MAINTENANCE_LOCK_S = 10  # far longer than maintenance takes
DEQUEUE_S = 1
ALIVE_TTL_S = 10  # for /readyz


class MaintainedQueue(PriorityQueue):
    """RQ's queue, whose maintenance lock does not outlive a worker that is killed while it holds it by the quarter of an hour that
    RQ gives it: nobody else would take over abandoned jobs meanwhile."""

    @property
    def intermediate_queue(self) -> Handed:
        return Handed(self.key, connection=self.connection)

    def acquire_maintenance_lock(self) -> bool:
        return bool(
            self.connection.set(self.registry_cleaning_key, 1, nx=True, ex=MAINTENANCE_LOCK_S)
        )


class ThreadWorker(BaseWorker):
    """Runs up to `slots` jobs at once."""

    queue_class = MaintainedQueue
    death_penalty_class = TimerDeathPenalty  # signals would only work in the main thread

    def __init__(
        self,
        connection: redis.Redis,
        *,
        slots: int,
        result_ttl: int,
        name: str | None = None,
        checkpoint: str = "",
        on_beat: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_beat` is told of every sign of life that reached Redis."""
        super().__init__(
            [redis_keys.QUEUE],
            name=name,
            connection=connection,
            serializer="json",
            job_monitoring_interval=BEAT_S,
            maintenance_interval=MAINTENANCE_S,
            worker_ttl=HEARTBEAT_TTL_S + BEAT_S,
            exception_handlers=[self._abandoned],
            log_job_description=False,
        )
        self.log_result_lifespan = False
        self.result_ttl = result_ttl
        self.checkpoint = checkpoint
        self.on_beat = on_beat
        self.slots = slots
        self._slots = threading.BoundedSemaphore(slots)
        self._running: dict[str, tuple[Job, Execution, threading.Thread]] = {}
        self._over = threading.Event()
        self._beat = threading.Thread(target=self._keep_alive, name="beat", daemon=True)

    def work(self, *args: Any, **kwargs: Any) -> bool:
        """RQ's loop, with the beat beside it. Returns once stopped and all started jobs have ended."""
        self._beat.start()
        return bool(super().work(*args, **kwargs))

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """First SIGTERM or SIGINT: take no more jobs, end those that run. A second one ends the process at once, and its jobs are
        given to another worker."""
        if self._stop_requested:
            log.warning("stopping at once: %d jobs go to another worker", len(self._running))
            logging.shutdown()
            os._exit(
                1
            )  # SystemExit would wait for the jobs in `teardown`, and then for their timeouts' timers
        log.info("stopping: %d jobs are still to end", len(self._running))
        self._stop_requested = True

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Take a slot, then a job for it; None once a stop was asked for."""
        while not self._stop_requested:
            if self.should_run_maintenance_tasks:
                self.run_maintenance_tasks()  # type: ignore[no-untyped-call]
            self.heartbeat()
            if not self._slots.acquire(timeout=DEQUEUE_S):
                continue
            taken = None
            try:
                taken = self.queue_class.dequeue_any(
                    self._ordered_queues,
                    DEQUEUE_S,
                    connection=self.connection,
                    job_class=self.job_class,
                    serializer=self.serializer,
                    death_penalty_class=self.death_penalty_class,
                )
            except DequeueTimeout:
                pass
            except redis.ResponseError as error:
                if "UNBLOCKED" not in str(
                    error
                ):  # its server has just become a replica: the next connection finds the master
                    raise
            finally:
                if taken is None:
                    self._slots.release()
            if taken is not None:
                return taken
        return None

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Start a thread for the job; its slot is already taken."""
        execution = self.prepare_execution(job)
        thread = threading.Thread(
            target=self._perform, args=(job, queue, execution), name=f"job {job.id}", daemon=True
        )
        self._running[execution.id] = (job, execution, thread)
        thread.start()

    def _perform(self, job: Job, queue: Queue, execution: Execution) -> None:
        try:
            self.perform_job(job, queue, execution)
        finally:
            self._running.pop(execution.id, None)
            self._slots.release()

    def _keep_alive(self) -> None:
        """Heartbeats of the process and of every job it runs."""
        beat = WorkerHeartbeat(
            pid=self.pid, slots=self.slots, checkpoint=self.checkpoint
        ).model_dump_json()
        while not self._over.is_set():
            try:
                with self.connection.pipeline() as pipe:
                    pipe.sadd(redis_keys.WORKERS, self.name)
                    pipe.set(redis_keys.worker(self.name), beat, ex=ALIVE_TTL_S)
                    pipe.set(redis_keys.LAST_HEARTBEAT, f"{time.time():.3f}")
                    pipe.execute()
                self.on_beat()
                for job, execution, _ in list(self._running.values()):
                    self.maintain_heartbeats(job, execution)
            except Exception:  # Redis refused, such as for want of memory: without the next beat all jobs would seem abandoned
                log.exception("a beat failed")
            self._over.wait(BEAT_S)

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Short: RQ's own adds a minute, and recovery would wait for it."""
        return HEARTBEAT_TTL_S

    def teardown(self) -> None:
        """Wait for the jobs that run, then sign off."""
        while threads := [thread for _, _, thread in list(self._running.values())]:
            threads[0].join(timeout=1)
        self._over.set()
        self._beat.join()
        self.connection.delete(redis_keys.worker(self.name))
        super().teardown()  # type: ignore[no-untyped-call]

    def handle_job_failure(self, job: Job, queue: Queue, *args: Any, **kwargs: Any) -> None:
        """RQ's, and the same in the job's own record."""
        self._note(job, "the worker failed at this job; its log says why", "error")
        super().handle_job_failure(job, queue, *args, **kwargs)

    def _abandoned(
        self, job: Job, kind: type[BaseException], error: BaseException, trace: object
    ) -> bool:
        """RQ's exception handler, called by maintenance for jobs whose worker died (and for those that raised, which
        `handle_job_failure` sees to)."""
        if issubclass(kind, AbandonedJobError):
            self._note(job, "the worker died at this job, each time it was tried", "died")
        return True

    def _note(self, job: Job, detail: str, reason: Reason) -> None:
        record = JobRecord(self.connection, job.id, self.result_ttl)
        if job.retries_left:
            log.warning("job %s is tried again: %d tries left", job.id, job.retries_left)
            record.requeue()
        else:
            record.fail("internal", detail, reason)


def connect(url: str) -> redis.Redis:
    """A connection that waits for Redis as long as it is away: a worker without Redis has nothing better to do."""
    from redis.backoff import ExponentialBackoff
    from redis.retry import Retry

    client: redis.Redis = connect_to(
        url,
        retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), -1),
        socket_connect_timeout=2.0,
        socket_keepalive=True,
    )
    return client
