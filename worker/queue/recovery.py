"""Recovery of jobs that left the queue and were never started.

A worker that is killed between dequeue and start leaves its job in RQ's intermediate queue. So does
one that is killed shortly before Redis sends it a job, because Redis has not seen the connection
close. RQ counts that as a failure after a minute. Here the job goes back to the queue within
seconds, ahead of jobs of equal priority, and no retry is spent.
"""

from __future__ import annotations

import logging
import time

from rq import Queue
from rq.intermediate_queue import IntermediateQueue
from rq.job import JobStatus

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
        now_s = time.time()
        self.connection.set(key, now_s, nx=True, ex=SEEN_TTL_S)
        return now_s - float(self.connection.get(key) or now_s) < DEQUEUE_GRACE_S
