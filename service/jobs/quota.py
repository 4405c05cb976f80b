"""Limit the number of active jobs of an API key.

There is no counter that could drift. A job's id is added in the transaction that accepts it, and
the job's own record says whether it is active. Ids of ended and deleted jobs are removed when the
limit is reached.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fastapi.concurrency import run_in_threadpool

from contracts import redis_keys
from contracts.fields import QueueFields
from contracts.jobs import ENDED
from contracts.operations import num_images
from service.errors import InvalidRequest, QuotaExceeded
from service.jobs.estimate import retry_after_first_finish_s
from service.jobs.repository import JobRepository

MAX_PRIORITY = 10
# For the cost of what the checkpoint decides.
DEFAULT_SIDE_PX = 1024
DEFAULT_STEPS = 50


@dataclass(frozen=True)
class Owner:
    """An API key as jobs see it.

    max_jobs: limit of its active jobs; None for no limit. max_cost: limit of the cost of one job,
    see `job_cost`; None for no limit. max_priority: the highest priority of its jobs.
    """

    id: str
    max_jobs: int | None = None
    max_cost: int | None = None
    max_priority: int = MAX_PRIORITY


def job_cost(request: QueueFields) -> int:
    """Return the denoising steps of all images of a job, in steps at 1024², rounded up.

    An omitted size counts as 1024 and omitted steps as 50, because the checkpoint decides.
    """
    side_px = getattr(request, "size", None) or DEFAULT_SIDE_PX
    steps = [
        getattr(request, name, None) or DEFAULT_STEPS
        for name in ("decoder_num_inference_steps", "upsampler_num_inference_steps")
    ]
    return math.ceil(num_images(request) * sum(steps) * (side_px / DEFAULT_SIDE_PX) ** 2)


def check_job(owner: Owner, request: QueueFields) -> None:
    """Check that an owner may submit a job of this cost and priority. Raises InvalidRequest."""
    if request.priority > owner.max_priority:
        raise InvalidRequest.from_field(
            "priority", f"API key {owner.id} may use at most {owner.max_priority}"
        )
    cost = job_cost(request)
    if owner.max_cost is not None and cost > owner.max_cost:
        raise InvalidRequest(
            f"The job costs {cost} steps at 1024×1024, and a job of API key {owner.id} may cost "
            f"{owner.max_cost}. Request fewer images, fewer steps or a smaller size."
        )


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
