"""The queue of waiting jobs: RQ's, ordered by priority."""

from __future__ import annotations

from typing import Any

from rq import Queue

from contracts import redis_keys
from contracts.queue import PUSH


class PriorityQueue(Queue):
    """Keep RQ's queue in order of priority, and equal priorities in order of arrival."""

    def push_job_id(self, job_id: str, pipeline: Any = None, at_front: bool = False) -> None:
        """Insert a job by its priority.

        at_front: before its equals, for a job that is tried again; otherwise after them.
        """
        (pipeline or self.connection).eval(
            PUSH, 1, self.key, job_id, redis_keys.job(""), int(at_front)
        )
