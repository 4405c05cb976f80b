"""Rate limits of API keys: the generic cell rate algorithm, counted in Redis by its clock.

A bucket holds as many requests as the rate allows and refills evenly. Redis stores the time at
which it is full again, so the limit holds across all services. The counter stays out of Redis'
append-only file: it is worthless after a restart, and each request would wait for the disk.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_RATE = re.compile(rf"([1-9][0-9]{{0,5}})/({'|'.join(SECONDS)})")
# KEYS: the bucket. ARGV: its size, and microseconds until one request is refilled.
# Returns whether the request is allowed, microseconds until the bucket is full, and microseconds
# until the next request is allowed. Lua's numbers hold whole microseconds exactly.
_CONSUME = """
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
    """A number of requests per interval of some seconds."""

    amount: int
    interval_s: int


@dataclass(frozen=True)
class RateLimitResult:
    """The state of a bucket after a request.

    allowed: whether the request is within the rate.
    remaining: requests that are allowed at once.
    reset_s: seconds until the bucket is full.
    retry_after_s: seconds until the next request is allowed.
    """

    allowed: bool
    remaining: int
    reset_s: int
    retry_after_s: int


# All requests by the link of one job or kept image: a page of its images shows them at once.
LINK_RATE = Rate(600, 60)


def parse_rate(text: str) -> Rate:
    """Parse a rate such as 60/minute. Raises ValueError if it is invalid."""
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError(
            f"invalid rate {text!r}: expected <1-999999>/<{'|'.join(SECONDS)}>, e.g. 60/minute"
        )
    return Rate(int(match[1]), SECONDS[match[2]])


async def consume(redis: Any, bucket: str, rate: Rate) -> RateLimitResult:
    """Count one request if it is within the rate. `bucket`: the key of its bucket in Redis."""
    each_us = rate.interval_s * 1_000_000 // rate.amount
    allowed, until_full_us, wait_us = await redis.eval(_CONSUME, 1, bucket, rate.amount, each_us)
    return RateLimitResult(
        bool(allowed),
        rate.amount - math.ceil(until_full_us / each_us),
        math.ceil(until_full_us / 1e6),
        math.ceil(wait_us / 1e6),
    )
