"""RQ worker that runs jobs as threads of one process, so that they share the loaded pipeline.

RQ's default worker forks for each job, which would load the pipeline again. This one uses RQ's
registries, retries and heartbeats, and differs in four points:

* Jobs run in threads.
* A slot is taken before a job is dequeued, so that no job waits between queue and execution when
  the process is killed.
* Signals only set a flag, so that none interrupts a dequeue.
* The task is a method of the runner that the worker holds. RQ would import and call any function
  that a record in Redis names; here the name is only a label, and other names are refused.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Protocol

import redis
from rq import Queue
from rq.exceptions import DequeueTimeout, DeserializationError
from rq.executions import Execution
from rq.job import Job
from rq.timeouts import TimerDeathPenalty
from rq.utils import now
from rq.worker import BaseWorker, WorkerStatus

from contracts import redis_keys
from contracts.jobs import WorkerHeartbeat
from contracts.transitions import Reason
from infra.queue import PriorityQueue
from infra.redis import connect
from infra.redis_errors import EndlessRetry, Episode, describe, give_up_when
from worker.jobs.record import JobRepository
from worker.queue.heartbeats import HEARTBEAT_INTERVAL_S, HEARTBEAT_TTL_S, send_heartbeat
from worker.queue.recovery import RecoveringIntermediateQueue, clean_registries

log = logging.getLogger("worker.queue.worker")
# How often RQ's own registration of the worker is refreshed; it expires after a minute.
REGISTRATION_INTERVAL_S = 1
MAINTENANCE_INTERVAL_S = 3
# Far longer than maintenance takes.
MAINTENANCE_LOCK_S = 10
DEQUEUE_TIMEOUT_S = 1
# How long a stopping worker waits for Redis.
TEARDOWN_S = 5


class Runner(Protocol):
    """What runs a job, such as `worker.jobs.runner.JobRunner`."""

    def run(self, job_id: str) -> None:
        """Run one job; an exception makes RQ retry it."""


class UnknownTaskError(Exception):
    """A queued job names a task that this worker does not run."""


def job_class_for(runner: Runner) -> type[Job]:
    """Return an RQ job class whose task is `runner.run`, and which imports nothing by name."""

    class RunnerJob(Job):
        success_callback = None
        failure_callback = None
        stopped_callback = None

        @property
        def func(self) -> Callable[[str], None]:
            if self.func_name != redis_keys.TASK:
                raise UnknownTaskError(_refusal(self))
            return runner.run

    return RunnerJob


class MaintainedQueue(PriorityQueue):
    """The queue of waiting jobs, with quick recovery of what a killed worker leaves behind."""

    @property
    def intermediate_queue(self) -> RecoveringIntermediateQueue:
        """Jobs between queue and execution."""
        return RecoveringIntermediateQueue(self.key, connection=self.connection)

    def acquire_maintenance_lock(self) -> bool:
        """Take the lock for MAINTENANCE_LOCK_S.

        RQ's own lock lasts a quarter of an hour. If its worker is killed meanwhile, no other worker
        would take over abandoned jobs.
        """
        return bool(
            self.connection.set(self.registry_cleaning_key, 1, nx=True, ex=MAINTENANCE_LOCK_S)
        )

    def move_dependents_to_ready(self, *args: Any, **kwargs: Any) -> dict[str, list[str]]:
        """Return no dependents, because jobs here have none; RQ would query Redis for each job."""
        return {}


class ThreadWorker(BaseWorker):
    """Run up to `slots` jobs at once."""

    queue_class = MaintainedQueue
    # RQ's other one uses signals, which only work in the main thread.
    death_penalty_class = TimerDeathPenalty

    def __init__(
        self,
        connection: redis.Redis,
        *,
        runner: Runner,
        slots: int,
        result_ttl_s: int,
        name: str | None = None,
        checkpoint: str = "",
        on_heartbeat: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_heartbeat` is called after every heartbeat that reached Redis."""
        super().__init__(
            [redis_keys.QUEUE],
            name=name,
            connection=connection,
            serializer="json",
            job_class=job_class_for(runner),
            job_monitoring_interval=HEARTBEAT_INTERVAL_S,
            worker_ttl=HEARTBEAT_TTL_S + HEARTBEAT_INTERVAL_S,
            log_job_description=False,
        )
        self.log_result_lifespan = False
        self.result_ttl_s = result_ttl_s
        self.checkpoint = checkpoint
        self.on_heartbeat = on_heartbeat
        self.slots = slots
        self._slots = threading.BoundedSemaphore(slots)
        self._running: dict[str, tuple[Job, Execution, threading.Thread]] = {}
        self._stopped = threading.Event()
        self._registered_at = -float("inf")
        self._maintained_at = -float("inf")
        self._errors = Episode("Redis refused a command of the worker")
        self._heartbeats = threading.Thread(
            target=self._send_heartbeats, name="heartbeats", daemon=True
        )

    def work(self, *args: Any, **kwargs: Any) -> bool:
        """Run RQ's loop and send heartbeats; return when stopped and all jobs have ended."""
        self._heartbeats.start()
        with give_up_when(lambda: self._stop_requested):
            return bool(super().work(*args, **kwargs))

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Handle SIGTERM and SIGINT: take no more jobs and finish the running ones.

        A second signal ends the process at once; its jobs go to another worker.
        """
        if self._stop_requested:
            log.warning("stopping at once: %d jobs go to another worker", len(self._running))
            logging.shutdown()
            # SystemExit would wait for the jobs in `teardown`, and for their timeouts' timers.
            os._exit(1)
        log.info("stopping after %d running jobs", len(self._running))
        self._stop_requested = True

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Take a slot, then a job for it; return None after a request to stop."""
        while not self._stop_requested:
            self.run_maintenance_tasks()
            self.heartbeat()
            if not self._take_slot():
                continue
            dequeued = None
            try:
                dequeued = self._dequeue()
            finally:
                if dequeued is None:
                    self._slots.release()
            if dequeued is not None:
                return dequeued
        return None

    def _take_slot(self) -> bool:
        """Wait DEQUEUE_TIMEOUT_S for a slot; return False without one or when stopping."""
        if not self._slots.acquire(timeout=DEQUEUE_TIMEOUT_S):
            return False
        if self._stop_requested:
            self._slots.release()
            return False
        return True

    def _dequeue(self) -> tuple[Job, Queue] | None:
        """Wait DEQUEUE_TIMEOUT_S for a job; return None if there is none."""
        try:
            dequeued: tuple[Job, Queue] | None = self.queue_class.dequeue_any(
                self._ordered_queues,
                DEQUEUE_TIMEOUT_S,
                connection=self.connection,
                job_class=self.job_class,
                serializer=self.serializer,
                death_penalty_class=self.death_penalty_class,
            )
        except DequeueTimeout:
            return None
        except redis.RedisError as error:
            # The connection outwaits refusals, so this is a permission, for example.
            self._errors.note(error)
            self._stopped.wait(DEQUEUE_TIMEOUT_S)
            return None
        return dequeued

    @property
    def should_run_maintenance_tasks(self) -> bool:
        """Return whether MAINTENANCE_INTERVAL_S has passed, by a clock that never jumps."""
        return time.monotonic() - self._maintained_at > MAINTENANCE_INTERVAL_S

    def run_maintenance_tasks(self) -> None:
        """Recover jobs of dead workers and clean RQ's registries, every MAINTENANCE_INTERVAL_S."""
        if not self.should_run_maintenance_tasks:
            return
        self._maintained_at = time.monotonic()
        (queue,) = self.queues
        try:
            # First, because the process may have been paused.
            self._send_heartbeat()
            if queue.acquire_maintenance_lock():
                clean_registries(queue, self.result_ttl_s)
                queue.release_maintenance_lock()
        except redis.RedisError as error:
            self._errors.note(error)

    def check_for_suspension(self, burst: bool) -> None:
        """Do nothing: `rq suspend` is not supported, and RQ would query it for each job."""

    def subscribe(self) -> None:
        """Do nothing: RQ's remote commands are not supported."""

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Refresh RQ's registration of this worker, at most every REGISTRATION_INTERVAL_S.

        RQ calls it twice per job, with three round trips each time.
        """
        if pipeline is not None:
            super().heartbeat(timeout, pipeline)
            return
        now_s = time.monotonic()
        if now_s - self._registered_at < REGISTRATION_INTERVAL_S:
            return
        self._registered_at = now_s
        try:
            with self.connection.pipeline() as pipe:
                super().heartbeat(timeout, pipe)
                pipe.execute()
        except redis.RedisError as error:
            self._errors.note(error)

    def prepare_execution(self, job: Job) -> Execution:
        """Register the execution and set RQ's job to started, in one transaction.

        RQ does it in two, the second one in `prepare_job_execution`.
        """
        with self.connection.pipeline() as pipe:
            execution = Execution.create(
                job, self.get_heartbeat_ttl(job), pipeline=pipe, worker_name=self.name
            )
            self.executions[execution.id] = execution
            self.set_state(WorkerStatus.BUSY, pipeline=pipe)
            job.prepare_for_execution(self.name, pipeline=pipe)
            pipe.persist(job.key)
            pipe.lrem(self.queues[0].intermediate_queue_key, 1, job.id)
            pipe.execute()
        return execution

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = False) -> None:
        """Do nothing: `prepare_execution` has done it."""

    def handle_execution_ended(self, job: Job, queue: Queue, heartbeat_ttl: int) -> None:
        """Note when a job ended; a heartbeat would be overwritten by its result at once."""
        job.ended_at = now()

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Start a thread for the job, whose slot is already taken."""
        try:
            execution = self.prepare_execution(job)
        except redis.RedisError as error:
            # Maintenance puts the job back into the queue.
            self._errors.note(error)
            self._slots.release()
            return
        predecessors = [
            thread for other, _, thread in list(self._running.values()) if other.id == job.id
        ]
        thread = threading.Thread(
            target=self._run_in_slot,
            args=(job, queue, execution, predecessors),
            name=f"job {job.id}",
            daemon=True,
        )
        self._running[execution.id] = (job, execution, thread)
        thread.start()

    def _run_in_slot(
        self,
        job: Job,
        queue: Queue,
        execution: Execution,
        predecessors: Sequence[threading.Thread],
    ) -> None:
        """Run a job after all earlier runs of it in this process.

        Another worker may have queued a running job again, because this process was paused. The
        later run then finds the job ended.
        """
        try:
            for thread in predecessors:
                thread.join()
            self.perform_job(job, queue, execution)
        except redis.RedisError as error:
            self._errors.note(error)
        finally:
            self._running.pop(execution.id, None)
            self._slots.release()

    def _send_heartbeats(self) -> None:
        """Send heartbeats of the process and of every running job, until `teardown`."""
        while not self._stopped.is_set():
            try:
                with give_up_when(self._stopped.is_set):
                    self._send_heartbeat()
                self.on_heartbeat()
            except redis.RedisError as error:
                # Without the next heartbeat all jobs would seem abandoned.
                self._errors.note(error)
            self._stopped.wait(HEARTBEAT_INTERVAL_S)

    def _send_heartbeat(self) -> None:
        heartbeat = WorkerHeartbeat(pid=self.pid, slots=self.slots, checkpoint=self.checkpoint)
        executions = [execution for _, execution, _ in list(self._running.values())]
        send_heartbeat(self.connection, self.name, heartbeat.model_dump_json(), executions)

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Return HEARTBEAT_TTL_S: RQ adds a minute, for which recovery would have to wait."""
        return HEARTBEAT_TTL_S

    def teardown(self) -> None:
        """Wait for the running jobs, then deregister if Redis accepts it soon."""
        while threads := [thread for _, _, thread in list(self._running.values())]:
            threads[0].join(timeout=1)
        self._stopped.set()
        self._heartbeats.join()
        deadline_s = time.monotonic() + TEARDOWN_S
        try:
            with give_up_when(lambda: time.monotonic() > deadline_s):
                self.connection.delete(redis_keys.worker(self.name))
                super().teardown()  # type: ignore[no-untyped-call]
        except redis.RedisError as error:
            log.warning("cannot deregister, the heartbeat expires: %s", describe(error))

    def handle_job_failure(self, job: Job, queue: Queue, *args: Any, **kwargs: Any) -> None:
        """Record a worker error in the job's own record too, and never retry an unknown task."""
        if _task_name(job) == redis_keys.TASK:
            self._retry_or_fail(job, "worker error, see its log", "error")
        else:
            job.retries_left = None
            self._retry_or_fail(job, _refusal(job), "error")
        super().handle_job_failure(job, queue, *args, **kwargs)

    def _retry_or_fail(self, job: Job, detail: str, reason: Reason) -> None:
        jobs = JobRepository(self.connection, job.id, self.result_ttl_s)
        if job.retries_left:
            log.warning("job %s is retried: %d retries left", job.id, job.retries_left)
            jobs.requeue()
        else:
            jobs.fail("internal", detail, reason)


def _task_name(job: Job) -> str | None:
    try:
        return str(job.func_name)
    except DeserializationError:
        return None


def _refusal(job: Job) -> str:
    return (
        f"unknown task {_task_name(job)!r}: this worker runs only {redis_keys.TASK!r}. "
        "Update service and worker to the same version."
    )


def connect_patiently(url: str) -> redis.Redis:
    """Connect to Redis with endless retries: a worker has nothing to do without Redis."""
    client: redis.Redis = connect(
        url,
        retry=EndlessRetry(),
        socket_connect_timeout=2.0,
        socket_keepalive=True,
    )
    return client
