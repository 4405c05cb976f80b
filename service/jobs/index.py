"""The index of jobs in Redis: by creation time, read page by page, without expired jobs.

An entry is `job:owner` (or `job:`). Its score is the microsecond in which the job was created. The
index of all jobs names the owners, so the owners' indexes are pruned along with it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from redis.exceptions import RedisError

from contracts import redis_keys
from contracts.jobs import JobRecord, now
from service.background import sleep_until_stop
from service.errors import InvalidRequest

log = logging.getLogger("service.jobs.index")
# Entries that one page reads at most in search of those that match its filters.
MAX_SCANNED = 500
PRUNED_AT_ONCE = 500
# A score, and the name of an entry.
_CURSOR = re.compile(r"([0-9]{1,17}) ([0-9a-f]{1,64}:[0-9a-f]{0,64})")
PRUNE_EVERY_S = 60.0
LISTED_FIELDS = ("spec", "status", "progress", "outcome", "started_at", "finished_at")
# KEYS: the index. ARGV: the highest score and name of the page, its lowest score, its length, the
# entries to scan, the filters status and operation, the prefix of records, the fields to return.
# Returns the jobs, the last entry and whether more follow, as one JSON text: redis-py parses an
# array of a thousand strings far more slowly. cjson writes an empty table as {}. Entries of equal
# score are in reverse order of their names, so a cursor is a score and a name, and a page begins
# below both.
_PAGE = """
local below, name, least = ARGV[1], ARGV[2], ARGV[3]
local limit, scanned = tonumber(ARGV[4]), tonumber(ARGV[5])
local status, operation, prefix = ARGV[6], ARGV[7], ARGV[8]
local entries = redis.call('ZRANGE', KEYS[1], below, least, 'BYSCORE', 'REV',
  'LIMIT', 0, scanned, 'WITHSCORES')
local jobs, last, more = {}, {}, #entries == 2 * scanned
for i = 1, #entries, 2 do
  if not (name ~= '' and entries[i + 1] == below and entries[i] >= name) then
    if #jobs == limit then
      more = true
      break
    end
    last = {entries[i + 1], entries[i]}
    local key = prefix .. string.match(entries[i], '^[^:]*')
    if (status == '' or redis.call('HGET', key, 'status') == status) and
       (operation == '' or redis.call('HGET', key, 'operation') == operation) then
      local values = redis.call('HMGET', key, unpack(ARGV, 9))
      if values[1] then jobs[#jobs + 1] = {entries[i], values} end
    end
  end
end
return cjson.encode({jobs, last, more})
"""


@dataclass(frozen=True)
class Page:
    """Some jobs, newest first, and the cursor of the next page; None if this is the last."""

    records: list[JobRecord]
    next: str | None


def add(pipe: Any, record: JobRecord) -> None:
    """Add a job to the index, in the transaction that records it."""
    owner = record.spec.owner
    entry = {f"{record.id}:{owner or ''}": _score(record.spec.created_at)}
    for index in {redis_keys.listing(), redis_keys.listing(owner)}:
        pipe.zadd(index, entry)


async def read_page(
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
    """Read at most `limit` jobs, created at `after` or later and before `before`.

    A page has fewer jobs, and a cursor to continue, if few of MAX_SCANNED entries match the
    filters. Raises InvalidRequest if the cursor is not valid.
    """
    below = f"({_score(before)}" if before else "+inf"
    name = ""
    if cursor:
        below, name = _parse_cursor(cursor)
    least = str(_score(after)) if after else "-inf"
    # Without filters it skips only expired jobs and those of the microsecond of the cursor.
    scanned = MAX_SCANNED if status or operation else 2 * limit + 100
    reply = await redis.eval(
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
        *LISTED_FIELDS,
    )
    jobs, last, has_more = json.loads(reply)
    records = [_parse_record(entry, values) for entry, values in jobs]
    return Page(records, _cursor(last) if has_more and last else None)


async def prune_expired(redis: Any, ttl_s: int) -> int:
    """Remove expired jobs from the index and return their number.

    Ended jobs stay for `ttl_s` seconds, so only older entries can be expired. An older job that
    still exists has waited or run for long.
    """
    below = _score(now()) - ttl_s * 1_000_000
    skipped = 0
    removed = 0
    while entries := await redis.zrange(
        redis_keys.listing(), "-inf", below, byscore=True, offset=skipped, num=PRUNED_AT_ONCE
    ):
        existing = await _existing(redis, entries)
        expired = [entry for entry in entries if entry not in existing]
        async with redis.pipeline() as pipe:
            for entry in expired:
                owner = entry.decode().partition(":")[2]
                for index in {redis_keys.listing(), redis_keys.listing(owner)}:
                    pipe.zrem(index, entry)
            await pipe.execute()
        skipped = skipped + len(existing)
        removed = removed + len(expired)
    return removed


async def prune_periodically(redis: Any, ttl_s: int, stop: asyncio.Event) -> None:
    """Prune the index every PRUNE_EVERY_S seconds until the event is set."""
    while not stop.is_set():
        try:
            await prune_expired(redis, ttl_s)
        except RedisError as error:
            log.warning("the index of jobs is pruned later, Redis does not respond: %s", error)
        await sleep_until_stop(stop, PRUNE_EVERY_S)


async def _existing(redis: Any, entries: list[bytes]) -> set[bytes]:
    async with redis.pipeline(transaction=False) as pipe:
        for entry in entries:
            pipe.exists(redis_keys.job(entry.decode().partition(":")[0]))
        replies = await pipe.execute()
    return {entry for entry, exists in zip(entries, replies, strict=True) if exists}


def _parse_record(entry: str, values: list[Any]) -> JobRecord:
    fields = {name: value for name, value in zip(LISTED_FIELDS, values, strict=True) if value}
    return JobRecord.from_texts(entry.partition(":")[0], fields)


def _score(time: datetime) -> int:
    return round(time.timestamp() * 1_000_000)


def _cursor(last: list[str]) -> str:
    return base64.urlsafe_b64encode(" ".join(last).encode()).decode().rstrip("=")


def _parse_cursor(cursor: str) -> tuple[str, str]:
    """Return the score and the name of a cursor."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        match = _CURSOR.fullmatch(text)
    except (ValueError, binascii.Error):
        match = None
    if match is None:
        raise InvalidRequest.from_field(
            "cursor",
            f"{cursor[:80]!r} is not valid. Use the `next` value of the previous page unchanged",
        )
    return match[1], match[2]
