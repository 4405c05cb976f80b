"""Jobs between queue and execution: Redis has handed them to a worker, and none has begun them.

A worker that is killed at that moment, or just before it so that Redis has not yet seen its connection close, leaves its job there. RQ
counts that as a failure after a minute. Nobody has tried the job, so here it goes back to the front of its equals, and soon.
"""

from __future__ import annotations

import logging
import time

from rq import Queue
from rq.intermediate_queue import IntermediateQueue
from rq.job import JobStatus

log = logging.getLogger("worker.queue.recovery")
HANDED_S = 6  # from queue to execution it is milliseconds
SEEN_TTL_S = 30  # what was seen longer ago was another time


class Handed(IntermediateQueue):
    """RQ's intermediate queue, with a maintenance of its own."""

    def cleanup(self, worker: object, queue: Queue) -> None:
        """Called by whichever worker does the maintenance, every few seconds."""
        for job_id in self.get_job_ids():
            if job_id in queue.started_job_registry:
                continue
            job = queue.fetch_job(job_id)
            waits = (
                job is not None
                and job.get_status() == JobStatus.QUEUED
                and self.connection.lpos(queue.key, job_id) is None
            )
            if (
                not waits
            ):  # it is gone, has ended, or is in the queue again: what is left here is a trace
                self.remove(job_id)
            elif not self._lately(job_id):
                log.warning(
                    "job %s was handed to a worker that did not begin it: it goes back", job_id
                )
                with self.connection.pipeline() as pipe:
                    pipe.lrem(self.key, 1, job_id)
                    queue.push_job_id(job_id, pipeline=pipe, at_front=True)
                    pipe.delete(self.get_first_seen_key(job_id))
                    pipe.execute()

    def _lately(self, job_id: str) -> bool:
        """Whether it came here less than HANDED_S ago, as far as maintenance has seen."""
        key = self.get_first_seen_key(job_id)
        now = time.time()
        self.connection.set(key, now, nx=True, ex=SEEN_TTL_S)
        return now - float(self.connection.get(key) or now) < HANDED_S
