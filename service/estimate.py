"""Where a waiting job stands, and when it may be done."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from contracts import keys
from contracts.jobs import Beat


@dataclass(frozen=True)
class Place:
    """Jobs before this one (None where it does not wait any more), and seconds to its end, None where nothing was measured yet."""

    position: int | None
    eta_seconds: float | None


async def place(redis: Any, job_id: str) -> Place:
    """By Little's law: while jobs wait, all slots of all workers are taken, so jobs leave at the rate of slots over the time that one
    runs. The times were measured under such load, in which pictures share passes."""
    position = await redis.lpos(keys.QUEUE_LIST, job_id)
    if position is None:
        return Place(None, None)
    operation, request, parameters = await redis.hmget(keys.job(job_id), "operation", "request", "parameters")
    size = json.loads(parameters or "{}").get("size") or json.loads(request or "{}").get("size")
    own, any_job = await redis.hmget(keys.PACE, keys.pace((operation or b"").decode(), size), keys.pace("any", None))
    slots = sum(beat.slots for beat in await beats(redis))
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
