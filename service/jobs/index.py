"""The index of jobs in Redis: by creation time, a page at a time, and rid of jobs that have expired.

An entry is `job:owner` (or `job:`), its score the microsecond the job was created in. The index of all jobs names the owners, so
whoever clears it clears theirs with it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from redis.exceptions import RedisError

from contracts import redis_keys
from contracts.jobs import Record, now, record_of
from service.background import rest
from service.errors import InvalidRequest

log = logging.getLogger("service.jobs.index")
SCANNED = 500  # entries that one page looks at, at most, in search of those that its filters want
CLEARED = 500  # entries that are looked at in one go for jobs that have expired
CLEAR_EVERY_S = 60.0
# What a list shows of a record.
SHOWN = (
    "operation",
    "status",
    "request",
    "progress",
    "images",
    "animation",
    "error",
    "created_at",
    "started_at",
    "finished_at",
)
# Answers one JSON text, as redis-py takes much longer for an array of a thousand strings. An empty table of Lua's becomes {}.
# Entries of one score come in the reverse order of their names, so a cursor is a score and a name, and a page begins below both.
_PAGE = """
local below, name, least, limit, scanned = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local status, operation, jobs = ARGV[6], ARGV[7], ARGV[8]
local seen = redis.call('ZRANGE', KEYS[1], below, least, 'BYSCORE', 'REV', 'LIMIT', 0, scanned, 'WITHSCORES')
local found, last, more = {}, {}, #seen == 2 * scanned
for i = 1, #seen, 2 do
  if not (name ~= '' and seen[i + 1] == below and seen[i] >= name) then
    if #found == limit then
      more = true
      break
    end
    last = {seen[i + 1], seen[i]}
    local key = jobs .. string.match(seen[i], '^[^:]*')
    if (status == '' or redis.call('HGET', key, 'status') == status) and
       (operation == '' or redis.call('HGET', key, 'operation') == operation) then
      local told = redis.call('HMGET', key, unpack(ARGV, 9))
      if told[1] then found[#found + 1] = {seen[i], told} end
    end
  end
end
return cjson.encode({found, last, more})
"""


@dataclass(frozen=True)
class Page:
    """Some jobs, newest first, and where the next page begins; None where there is none."""

    jobs: list[tuple[str, Record]]
    next: str | None


def enter(pipe: Any, job_id: str, created_at: datetime, owner: str | None = None) -> None:
    """Put a job into the index, in the transaction that records it."""
    entry = {f"{job_id}:{owner or ''}": _score(created_at)}
    for index in {redis_keys.listing(), redis_keys.listing(owner)}:
        pipe.zadd(index, entry)


async def page(
    redis: Any,
    limit: int,
    cursor: str | None = None,
    *,
    owner: str | None = None,
    status: str | None = None,
    operation: str | None = None,
    before: datetime | None = None,
    after: datetime | None = None,
) -> Page:
    """At most `limit` jobs that were created at `after` or later and before `before`. Where status or operation are rare among
    SCANNED jobs it has fewer, and a cursor to go on. InvalidRequest for a cursor that is none."""
    below, name = _below(cursor) if cursor else (f"({_score(before)}" if before else "+inf", "")
    least = str(_score(after)) if after else "-inf"
    # Without filters only expired jobs are passed over, and those of the very microsecond that the page before ended in.
    scanned = SCANNED if status or operation else 2 * limit + 100
    answer = await redis.eval(
        _PAGE,
        1,
        redis_keys.listing(owner),
        below,
        name,
        least,
        limit,
        scanned,
        status or "",
        operation or "",
        redis_keys.job(""),
        *SHOWN,
    )
    found, last, more = json.loads(answer)
    jobs = [(entry.partition(":")[0], _record(values)) for entry, values in found]
    return Page(jobs, _cursor(last) if more and last else None)


async def clear(redis: Any, ttl: int) -> int:
    """Take out jobs that have expired, and tell how many. An ended job is kept for `ttl` seconds, so only entries older than that
    can be of any; what is older and still there has waited or run for long."""
    below = _score(now()) - ttl * 1_000_000
    kept = 0
    cleared = 0
    while entries := await redis.zrange(
        redis_keys.listing(), "-inf", below, byscore=True, offset=kept, num=CLEARED
    ):
        there = await _exist(redis, entries)
        gone = [entry for entry in entries if entry not in there]
        async with redis.pipeline() as pipe:
            for entry in gone:
                owner = entry.decode().partition(":")[2]
                for index in {redis_keys.listing(), redis_keys.listing(owner)}:
                    pipe.zrem(index, entry)
            await pipe.execute()
        kept = kept + len(there)
        cleared = cleared + len(gone)
    return cleared


async def keep_clear(redis: Any, ttl: int, stop: asyncio.Event) -> None:
    """Clear the index now and then, until told to stop."""
    while not stop.is_set():
        try:
            await clear(redis, ttl)
        except RedisError as error:
            log.warning("the index of jobs is cleared later, as Redis does not answer: %s", error)
        await rest(stop, CLEAR_EVERY_S)


async def _exist(redis: Any, entries: list[bytes]) -> set[bytes]:
    async with redis.pipeline(transaction=False) as pipe:
        for entry in entries:
            pipe.exists(redis_keys.job(entry.decode().partition(":")[0]))
        return {entry for entry, there in zip(entries, await pipe.execute(), strict=True) if there}


def _record(values: list[str | Literal[False]]) -> Record:
    return record_of(
        {name: value for name, value in zip(SHOWN, values, strict=True) if value is not False}
    )


def _score(time: datetime) -> int:
    return round(time.timestamp() * 1_000_000)


def _cursor(last: list[str]) -> str:
    return base64.urlsafe_b64encode(" ".join(last).encode()).decode().rstrip("=")


def _below(cursor: str) -> tuple[str, str]:
    try:
        score, name = (
            base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split(" ")
        )
        int(score)
    except (ValueError, binascii.Error) as error:
        raise InvalidRequest.from_field(
            "cursor",
            f"{cursor[:80]!r} is not valid. Use the `next` value of the previous page unchanged",
        ) from error
    return score, name
