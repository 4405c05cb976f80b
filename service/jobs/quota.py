"""Limit the number of active jobs of an API key.

There is no counter that could drift. A job's id is added in the transaction that accepts it, and
the job's own record says whether it is active. Ids of ended and deleted jobs are removed when the
limit is reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi.concurrency import run_in_threadpool

from contracts import redis_keys
from contracts.jobs import ENDED
from service.errors import QuotaExceeded
from service.jobs.estimate import retry_after_first_finish_s
from service.jobs.repository import JobRepository


@dataclass(frozen=True)
class Owner:
    """An API key as jobs see it. `max_jobs`: limit of its active jobs; None for no limit."""

    id: str
    max_jobs: int | None = None


def active_jobs(redis: Any, owner_id: str) -> set[str]:
    """Return the ids of an owner's waiting and running jobs. Blocking."""
    job_ids = [job_id.decode() for job_id in redis.smembers(redis_keys.active_jobs(owner_id))]
    with redis.pipeline(transaction=False) as pipe:
        for job_id in job_ids:
            pipe.hget(redis_keys.job(job_id), "status")
        statuses = pipe.execute()
    return {
        job_id
        for job_id, status in zip(job_ids, statuses, strict=True)
        if status is not None and status.decode() not in ENDED
    }


async def check_quota(jobs: JobRepository, owner: Owner) -> set[str] | None:
    """Check that an owner may have one more job.

    Returns the active jobs if they had to be counted, otherwise None. The caller watches the set,
    so that no other request uses the same slot. Raises QuotaExceeded.
    """
    if owner.max_jobs is None:
        return None
    if await jobs.redis.scard(redis_keys.active_jobs(owner.id)) < owner.max_jobs:
        return None
    return await run_in_threadpool(_count_active, jobs.blocking_redis, owner, owner.max_jobs)


def _count_active(redis: Any, owner: Owner, limit: int) -> set[str]:
    active = active_jobs(redis, owner.id)
    if len(active) >= limit:
        raise QuotaExceeded(
            f"API key {owner.id} already has {len(active)} active jobs (limit {limit}). "
            "Wait for one to finish or cancel one.",
            retry_after_s=retry_after_first_finish_s(redis, sorted(active)),
        )
    return active


def register_job(pipe: Any, owner: Owner, job_id: str, active: set[str] | None) -> None:
    """Add a job to its owner's, in the transaction that accepts it.

    `active`: what `check_quota` returned; it replaces the set if it was counted.
    """
    if owner.max_jobs is None:
        return
    if active is not None:
        pipe.delete(redis_keys.active_jobs(owner.id))
    pipe.sadd(redis_keys.active_jobs(owner.id), job_id, *(active or ()))
