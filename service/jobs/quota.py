"""How many jobs an API key may have waiting and running.

There is no counter that could drift. A slot is the id of a job, entered in the transaction that accepts it, and the job's own record says
whether it is held: one that has ended or is gone holds none, however that came about. Its id is dropped when slots run out.
"""

from __future__ import annotations

from typing import Any

from contracts import redis_keys
from contracts.jobs import ENDED
from service.api.problems import ProblemError
from service.jobs.estimate import first_end
from service.security.api_keys import ApiKey


def holding(redis: Any, key_id: str) -> set[str]:
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


def take(redis: Any, key: ApiKey) -> set[str] | None:
    """Make sure that the key has a slot left. The jobs that hold the others, where all had to be looked at; else None. Blocking.

    The caller watches the set, so that nobody else takes the slot meanwhile. ProblemError 429 where none is left."""
    if key.jobs is None or redis.scard(redis_keys.active_jobs(key.id)) < key.jobs:
        return None
    held = holding(redis, key.id)
    if len(held) >= key.jobs:
        detail = f"The API key {key.id} has {len(held)} jobs that wait or run, and may have {key.jobs}. Wait for one to end, or cancel one."
        raise ProblemError(
            429, detail, headers={"Retry-After": str(first_end(redis, sorted(held)))}
        )
    return held


def enter(pipe: Any, key: ApiKey, job_id: str, held: set[str] | None) -> None:
    """Enter a job in the transaction that records it. `held`: what `take` told."""
    if key.jobs is None:
        return
    if held is not None:
        pipe.delete(redis_keys.active_jobs(key.id))
    pipe.sadd(redis_keys.active_jobs(key.id), job_id, *(held or ()))
