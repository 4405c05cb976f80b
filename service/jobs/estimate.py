"""Where a waiting job stands, and when it may be done."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from contracts import redis_keys
from contracts.jobs import Record, WorkerHeartbeat, record_of

UNMEASURED_S = 30  # told where nothing was measured yet, or no worker is alive


# All that is told of a job as of one moment, in one round trip and as one JSON text: of redis-py's answers each costs as much again.
# The place is looked for from the end, where jobs are that have just come.
_STANDING = """
local function hash(key)
  local found, flat = {}, redis.call('HGETALL', key)
  for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
  return found
end
local told = {record = hash(KEYS[1])}
if told.record.status == 'queued' then
  told.position, told.pace, told.beats = redis.call('LPOS', KEYS[2], ARGV[1], 'RANK', -1), hash(KEYS[3]), {}
  for _, name in ipairs(redis.call('SMEMBERS', KEYS[4])) do
    local beat = redis.call('GET', ARGV[2] .. name)
    if beat then told.beats[#told.beats + 1] = beat end
  end
end
return cjson.encode(told)
"""


@dataclass(frozen=True)
class Place:
    """Jobs before this one (None where it does not wait any more), and seconds to its end, None where nothing was measured yet."""

    position: int | None
    eta_seconds: float | None


@dataclass(frozen=True)
class Standing:
    """A job's record, None where there is none (any more), and its place."""

    record: Record | None
    place: Place


def ask(redis: Any, job_id: str) -> Any:
    """Ask for a job's standing, of any client or pipeline; `standing_of` reads the answer."""
    asked = (
        redis_keys.job(job_id),
        redis_keys.QUEUE_LIST,
        redis_keys.MEAN_DURATIONS,
        redis_keys.WORKERS,
    )
    return redis.eval(_STANDING, len(asked), *asked, job_id, redis_keys.worker(""))


def standing_of(answer: bytes) -> Standing:
    """By Little's law: while jobs wait, all slots of all workers are taken, so jobs leave at the rate of slots over the time that one
    runs. The times were measured under such load, in which images share passes."""
    told = json.loads(answer)
    record = record_of(told["record"]) if told["record"] else None
    position = told.get("position", False)
    if record is None or position is False:  # Lua's nil
        return Standing(record, Place(None, None))
    size = record.parameters.get("size") or record.request.get("size")
    pace = told["pace"]
    any_job = pace.get(redis_keys.mean_duration("any", None))
    slots = sum(WorkerHeartbeat.model_validate_json(beat).slots for beat in told["beats"])
    if any_job is None or not slots:
        return Standing(record, Place(position, None))
    own = pace.get(redis_keys.mean_duration(record.operation, size), any_job)
    return Standing(
        record, Place(position, round(float(own) + position * float(any_job) / slots, 1))
    )


async def beats(redis: Any) -> list[WorkerHeartbeat]:
    """Signs of life of the workers that are alive. Names of those that are not are forgotten."""
    names = [name.decode() for name in await redis.smembers(redis_keys.WORKERS)]
    if not names:
        return []
    found = await redis.mget([redis_keys.worker(name) for name in names])
    gone = [name for name, beat in zip(names, found, strict=True) if beat is None]
    if gone:
        await redis.srem(redis_keys.WORKERS, *gone)
    return [WorkerHeartbeat.model_validate_json(beat) for beat in found if beat is not None]


def room(redis: Any, surplus: int) -> int:
    """Whole seconds until a full queue has lost so many jobs, for Retry-After. Blocking."""
    any_job, slots = _measured(redis)
    return (
        UNMEASURED_S
        if any_job is None or not slots
        else max(1, math.ceil(surplus * any_job / slots))
    )


def first_end(redis: Any, job_ids: Sequence[str]) -> int:
    """Whole seconds until one of these jobs, which wait or run, has ended, for Retry-After. Blocking."""
    any_job, slots = _measured(redis)
    with redis.pipeline(transaction=False) as pipe:
        for job_id in job_ids:
            pipe.lpos(redis_keys.QUEUE_LIST, job_id)
            pipe.hget(redis_keys.job(job_id), "progress")
        found = pipe.execute()
    times = []
    for position, progress in zip(found[::2], found[1::2], strict=True):
        left = (
            (json.loads(progress or "null") or {}).get("eta_seconds") if position is None else None
        )
        if left is not None:
            times.append(left)
        elif any_job is not None and slots:
            times.append(any_job * (1 + (position or 0) / slots))
    return max(1, math.ceil(min(times))) if times else UNMEASURED_S


def _measured(redis: Any) -> tuple[float | None, int]:
    """Seconds that a job runs, None where none has run, and how many run at once. Blocking."""
    any_job = redis.hget(redis_keys.MEAN_DURATIONS, redis_keys.mean_duration("any", None))
    names = redis.smembers(redis_keys.WORKERS)
    found = redis.mget([redis_keys.worker(name.decode()) for name in names]) if names else []
    return None if any_job is None else float(any_job), sum(
        WorkerHeartbeat.model_validate_json(beat).slots for beat in found if beat is not None
    )
