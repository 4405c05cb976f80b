"""Where a waiting job stands, and when it may be done."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from contracts import keys
from contracts.jobs import Beat

UNMEASURED_S = 30  # told where nothing was measured yet, or no worker is alive


@dataclass(frozen=True)
class Place:
    """Jobs before this one (None where it does not wait any more), and seconds to its end, None where nothing was measured yet."""

    position: int | None
    eta_seconds: float | None


async def place(redis: Any, job_id: str) -> Place:
    """By Little's law: while jobs wait, all slots of all workers are taken, so jobs leave at the rate of slots over the time that one
    runs. The times were measured under such load, in which pictures share passes."""
    async with redis.pipeline(transaction=False) as pipe:
        pipe.lpos(keys.QUEUE_LIST, job_id, rank=-1)  # from the end, where jobs are that have just come and are being answered
        pipe.hmget(keys.job(job_id), "operation", "request", "parameters")
        pipe.smembers(keys.WORKERS)
        position, (operation, request, parameters), names = await pipe.execute()
    if position is None:
        return Place(None, None)
    size = json.loads(parameters or "{}").get("size") or json.loads(request or "{}").get("size")
    async with redis.pipeline(transaction=False) as pipe:
        pipe.hmget(keys.PACE, keys.pace((operation or b"").decode(), size), keys.pace("any", None))
        pipe.mget([keys.worker(name.decode()) for name in [b"", *names]])  # b"": it must have one
        (own, any_job), found = await pipe.execute()
    slots = sum(Beat.model_validate_json(beat).slots for beat in found if beat is not None)
    if any_job is None or not slots:
        return Place(position, None)
    return Place(position, round(float(own or any_job) + position * float(any_job) / slots, 1))


async def beats(redis: Any) -> list[Beat]:
    """Signs of life of the workers that are alive. Names of those that are not are forgotten."""
    names = [name.decode() for name in await redis.smembers(keys.WORKERS)]
    if not names:
        return []
    found = await redis.mget([keys.worker(name) for name in names])
    gone = [name for name, beat in zip(names, found, strict=True) if beat is None]
    if gone:
        await redis.srem(keys.WORKERS, *gone)
    return [Beat.model_validate_json(beat) for beat in found if beat is not None]


def room(redis: Any, surplus: int) -> int:
    """Whole seconds until a full queue has lost so many jobs, for Retry-After. Blocking."""
    any_job, slots = _measured(redis)
    return UNMEASURED_S if any_job is None or not slots else max(1, math.ceil(surplus * any_job / slots))


def first_end(redis: Any, job_ids: Sequence[str]) -> int:
    """Whole seconds until one of these jobs, which wait or run, has ended, for Retry-After. Blocking."""
    any_job, slots = _measured(redis)
    with redis.pipeline(transaction=False) as pipe:
        for job_id in job_ids:
            pipe.lpos(keys.QUEUE_LIST, job_id)
            pipe.hget(keys.job(job_id), "progress")
        found = pipe.execute()
    times = []
    for position, progress in zip(found[::2], found[1::2], strict=True):
        left = (json.loads(progress or "null") or {}).get("eta_seconds") if position is None else None
        if left is not None:
            times.append(left)
        elif any_job is not None and slots:
            times.append(any_job * (1 + (position or 0) / slots))
    return max(1, math.ceil(min(times))) if times else UNMEASURED_S


def _measured(redis: Any) -> tuple[float | None, int]:
    """Seconds that a job runs, None where none has run, and how many run at once. Blocking."""
    any_job, names = redis.hget(keys.PACE, keys.pace("any", None)), redis.smembers(keys.WORKERS)
    found = redis.mget([keys.worker(name.decode()) for name in names]) if names else []
    return None if any_job is None else float(any_job), sum(Beat.model_validate_json(beat).slots for beat in found if beat is not None)
