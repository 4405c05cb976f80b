"""Snapshots of jobs: the record, the place in the queue and the estimated time to the end."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from contracts import redis_keys
from contracts.jobs import JobRecord, WorkerHeartbeat

# Retry-After if no job was measured yet or no worker is alive.
UNMEASURED_S = 30
_ANY_JOB = redis_keys.mean_duration("any", None)
# KEYS: the job's record, the queue, the mean durations, the workers' names. ARGV: the job's id, the
# prefix of heartbeats. Returns the position in the queue, the slots of all live workers and the
# mean durations; nothing if the job does not wait. New jobs are at the end, so it searches there.
_PLACE = """
if redis.call('HGET', KEYS[1], 'status') ~= 'queued' then return {} end
local position = redis.call('LPOS', KEYS[2], ARGV[1], 'RANK', -1)
if not position then return {} end
local slots = 0
for _, name in ipairs(redis.call('SMEMBERS', KEYS[4])) do
  local heartbeat = redis.call('GET', ARGV[2] .. name)
  if heartbeat then slots = slots + cjson.decode(heartbeat).slots end
end
return {position, slots, redis.call('HGETALL', KEYS[3])}
"""


@dataclass(frozen=True)
class QueuePlace:
    """Place of a waiting job.

    `position`: jobs before it, None if it does not wait. `eta_seconds`: seconds to its end, None if
    nothing was measured yet.
    """

    position: int | None = None
    eta_seconds: float | None = None


@dataclass(frozen=True)
class JobSnapshot:
    """A job and its place in the queue at one moment."""

    record: JobRecord
    place: QueuePlace


def query_place(redis: Any, job_id: str) -> Any:
    """Query a job's place on a client or a pipeline; `parse_place` reads the reply."""
    keys = (
        redis_keys.job(job_id),
        redis_keys.QUEUE_LIST,
        redis_keys.MEAN_DURATIONS,
        redis_keys.WORKERS,
    )
    return redis.eval(_PLACE, len(keys), *keys, job_id, redis_keys.worker(""))


def parse_place(reply: list[Any], record: JobRecord) -> QueuePlace:
    """Parse the reply of `query_place` and estimate the time to the job's end.

    The estimate is the job's own mean duration + position * mean duration of any job / slots, by
    Little's law: all slots are busy while jobs wait. The durations were measured under such load,
    in which images share batches.
    """
    if not reply:
        return QueuePlace()
    position, slots, flat = reply
    durations = {flat[i].decode(): float(flat[i + 1]) for i in range(0, len(flat), 2)}
    any_job = durations.get(_ANY_JOB)
    if any_job is None or not slots:
        return QueuePlace(position)
    size = record.parameters.get("size") or getattr(record.spec.request, "size", None)
    own = durations.get(redis_keys.mean_duration(record.spec.operation, size), any_job)
    return QueuePlace(position, round(own + position * any_job / slots, 1))


async def read_snapshot(redis: Any, job_id: str) -> JobSnapshot | None:
    """Read a job's snapshot in one round trip; None if the job does not exist.

    It is no transaction, because a full Redis refuses transactions that only read, too.
    """
    async with redis.pipeline(transaction=False) as pipe:
        query_snapshot(pipe, job_id)
        fields, reply = await pipe.execute()
    return parse_snapshot(job_id, fields, reply)


def query_snapshot(pipe: Any, job_id: str) -> None:
    """Query a job's snapshot on a pipeline: two replies, for `parse_snapshot`."""
    pipe.hgetall(redis_keys.job(job_id))
    query_place(pipe, job_id)


def parse_snapshot(job_id: str, fields: dict[bytes, bytes], reply: list[Any]) -> JobSnapshot | None:
    """Parse the replies of `query_snapshot`; None if the job does not exist."""
    # Progress that arrives just as the job expires leaves a hash without a spec.
    if b"spec" not in fields:
        return None
    record = JobRecord.from_hash(job_id, fields)
    return JobSnapshot(record, parse_place(reply, record))


async def live_workers(redis: Any) -> list[WorkerHeartbeat]:
    """Return the heartbeats of all live workers, and remove the names of dead ones."""
    names = [name.decode() for name in await redis.smembers(redis_keys.WORKERS)]
    if not names:
        return []
    texts = await redis.mget([redis_keys.worker(name) for name in names])
    dead = [name for name, text in zip(names, texts, strict=True) if text is None]
    if dead:
        await redis.srem(redis_keys.WORKERS, *dead)
    return [WorkerHeartbeat.model_validate_json(text) for text in texts if text is not None]


def retry_after_queue_full_s(redis: Any, surplus: int) -> int:
    """Return whole seconds until the queue is shorter by `surplus` jobs. Blocking."""
    any_job, slots = _speed(redis)
    if any_job is None or not slots:
        return UNMEASURED_S
    return max(1, math.ceil(surplus * any_job / slots))


def retry_after_first_finish_s(redis: Any, job_ids: Sequence[str]) -> int:
    """Return whole seconds until the first of these active jobs ends. Blocking."""
    any_job, slots = _speed(redis)
    with redis.pipeline(transaction=False) as pipe:
        for job_id in job_ids:
            pipe.lpos(redis_keys.QUEUE_LIST, job_id)
            pipe.hget(redis_keys.job(job_id), "progress")
        replies = pipe.execute()
    times = []
    for position, progress in zip(replies[::2], replies[1::2], strict=True):
        eta = json.loads(progress).get("eta_seconds") if progress and position is None else None
        if eta is not None:
            times.append(eta)
        elif any_job is not None and slots:
            times.append(any_job * (1 + (position or 0) / slots))
    return max(1, math.ceil(min(times))) if times else UNMEASURED_S


def _speed(redis: Any) -> tuple[float | None, int]:
    """Return the mean duration of a job in seconds, and the slots of all live workers."""
    any_job = redis.hget(redis_keys.MEAN_DURATIONS, _ANY_JOB)
    names = redis.smembers(redis_keys.WORKERS)
    texts = redis.mget([redis_keys.worker(name.decode()) for name in names]) if names else []
    slots = [WorkerHeartbeat.model_validate_json(text).slots for text in texts if text is not None]
    return None if any_job is None else float(any_job), sum(slots)
