"""How often an API key may ask: a bucket that holds so many requests and is refilled evenly (GCRA: it remembers when it is full).

Counted in Redis, by its clock, so that it holds over all services. What is counted stays out of the append-only file: it is worth nothing
after a restart, and each request would wait for the disk, and with it all of Redis.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from contracts import redis_keys

SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_RATE = re.compile(rf"([1-9][0-9]{{0,5}})/({'|'.join(SECONDS)})")
# KEYS: the bucket. ARGV: its size, and the microseconds in which one request is refilled. All in whole microseconds, which numbers of
# Lua's hold exactly. Answers whether the request is within, and microseconds to when the bucket is full, and to when the next may come.
_SPEND = """
redis.set_repl(redis.REPL_NONE)
local time, size, each = redis.call('TIME'), tonumber(ARGV[1]), tonumber(ARGV[2])
local now = time[1] * 1000000 + time[2]
local full = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local wait = full + each - now - size * each
if wait > 0 then return {0, full - now, wait} end
full = full + each
redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000))
return {1, full - now, 0}
"""


@dataclass(frozen=True)
class Rate:
    """So many requests in so many seconds."""

    amount: int
    seconds: int


@dataclass(frozen=True)
class Left:
    """`within`: whether the request may come in. Then how many more may at once, seconds to when all may again, and to the next one."""

    within: bool
    remaining: int
    reset: int
    retry_after: int


def parsed(text: str) -> Rate:
    """A rate such as 60/minute. ValueError for what is none."""
    found = _RATE.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{text!r} is no rate: write a number from 1 to 999999, / and {', '.join(SECONDS)}, such as 60/minute"
        )
    return Rate(int(found[1]), SECONDS[found[2]])


async def spend(redis: Any, key_id: str, rate: Rate) -> Left:
    """Count one request of an API key, where it is within the rate."""
    each = rate.seconds * 1_000_000 // rate.amount
    within, full, wait = await redis.eval(
        _SPEND, 1, redis_keys.rate_limit(key_id), rate.amount, each
    )
    return Left(
        bool(within),
        rate.amount - math.ceil(full / each),
        math.ceil(full / 1e6),
        math.ceil(wait / 1e6),
    )
