"""How many jobs an API key may have waiting and running.

There is no counter that could drift. A slot is the id of a job, entered in the transaction that accepts it, and the job's own record says
whether it is held: one that has ended or is gone holds none, however that came about. Its id is dropped when slots run out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from contracts import redis_keys
from contracts.jobs import ENDED
from service.errors import QuotaExceeded
from service.jobs.estimate import first_end


@dataclass(frozen=True)
class Owner:
    """An API key as jobs know it. `max_jobs`: active jobs that it may have; None for no limit."""

    id: str
    max_jobs: int | None = None


def active_jobs(redis: Any, key_id: str) -> set[str]:
    """Those of the entered jobs that wait or run. Blocking."""
    entered = [job_id.decode() for job_id in redis.smembers(redis_keys.active_jobs(key_id))]
    with redis.pipeline(transaction=False) as pipe:
        for job_id in entered:
            pipe.hget(redis_keys.job(job_id), "status")
        found = pipe.execute()
    return {
        job_id
        for job_id, status in zip(entered, found, strict=True)
        if status is not None and status.decode() not in ENDED
    }


def take(redis: Any, owner: Owner) -> set[str] | None:
    """Make sure that the key has a slot left. The jobs that hold the others, where all had to be looked at; else None. Blocking.

    The caller watches the set, so that nobody else takes the slot meanwhile. QuotaExceeded where none is left."""
    if owner.max_jobs is None or redis.scard(redis_keys.active_jobs(owner.id)) < owner.max_jobs:
        return None
    held = active_jobs(redis, owner.id)
    if len(held) >= owner.max_jobs:
        detail = (
            f"API key {owner.id} already has {len(held)} active jobs (limit {owner.max_jobs}). "
            "Wait for one to finish or cancel one."
        )
        raise QuotaExceeded(detail, retry_after_s=first_end(redis, sorted(held)))
    return held


def enter(pipe: Any, owner: Owner, job_id: str, held: set[str] | None) -> None:
    """Enter a job in the transaction that records it. `held`: what `take` told."""
    if owner.max_jobs is None:
        return
    if held is not None:
        pipe.delete(redis_keys.active_jobs(owner.id))
    pipe.sadd(redis_keys.active_jobs(owner.id), job_id, *(held or ()))
