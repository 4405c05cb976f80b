"""Deliver webhooks, at least once.

Deliveries (`job:event`) wait in lanes, one for each API key (see `contracts.webhooks.lane_of`); a
lane is a Redis sorted set by due time. A dispatcher leases a delivery by moving its due time past
the longest attempt, and removes it after a 2xx or the last attempt. If the dispatcher dies, the
lease expires and another one retries. Only Redis measures time.

A free connection goes to the lane with the fewest attempts in progress, and no lane may use more
than MAX_PER_LANE. So receivers that hang delay deliveries of their own lane alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Literal
from urllib.parse import urlsplit

import httpcore
from redis.exceptions import RedisError

from contracts import redis_keys
from infra.redis_errors import describe
from service.background import sleep_until_stop
from service.errors import JobNotFound
from service.jobs.estimate import JobSnapshot
from service.jobs.repository import JobRepository
from service.settings import Settings
from service.webhooks import signing
from service.webhooks.policy import rejection_reason
from service.webhooks.ssrf import AddressNotAllowedError, CheckedNetwork

log = logging.getLogger(__name__)
MAX_ATTEMPTS = 9
# Tripled after each attempt: nine attempts take some four and a half hours.
FIRST_PAUSE_S = 5.0
JITTER = 0.25
MAX_CONCURRENT = 32
MAX_PER_LANE = 8
POLL_S = 0.5
# Time for Redis and the event loop around an attempt.
LEASE_MARGIN_S = 5
Outcome = Literal["delivered", "failed", "given_up", "refused", "expired"]
# KEYS: the lanes, number of attempts. ARGV: maximum count, lease in seconds, prefix of the lanes'
# keys, maximum attempts of a lane, and as JSON the attempts in progress by lane. Returns the lane,
# the delivery and the number of the attempt of each leased delivery.
_LEASE = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local limit, per_lane = tonumber(ARGV[1]), tonumber(ARGV[4])
local active, lanes, leased = cjson.decode(ARGV[5]), {}, {}
for _, name in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local key, used = ARGV[3] .. name, active[name] or 0
  local due = {}
  if used < per_lane then
    due = redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, per_lane - used)
  end
  if #due > 0 then
    lanes[#lanes + 1] = {name = name, key = key, used = used, due = due, first = 1}
  elseif redis.call('EXISTS', key) == 0 then
    redis.call('SREM', KEYS[1], name)
  end
end
for used = 0, per_lane - 1 do
  for _, lane in ipairs(lanes) do
    local delivery = lane.due[lane.first]
    if #leased < limit and delivery and lane.used <= used then
      lane.first, lane.used = lane.first + 1, lane.used + 1
      redis.call('ZADD', lane.key, now + tonumber(ARGV[2]), delivery)
      local attempt = redis.call('HINCRBY', KEYS[2], delivery, 1)
      leased[#leased + 1] = {lane.name, delivery, attempt}
    end
  end
end
return leased
"""
# KEYS: a lane. ARGV: a delivery, seconds until it is due again.
_POSTPONE = """
local time = redis.call('TIME')
local due = tonumber(time[1]) + tonumber(time[2]) / 1000000 + tonumber(ARGV[2])
redis.call('ZADD', KEYS[1], 'XX', due, ARGV[1])
"""
Delivery = tuple[str, str, int]  # lane, `job:event`, number of the attempt
_NETWORK_ERRORS = (
    OSError,
    TimeoutError,
    UnicodeError,
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
)


class WebhookDispatcher:
    """Send due deliveries in the event loop. Any number of dispatchers may share one Redis."""

    def __init__(
        self,
        settings: Settings,
        jobs: JobRepository,
        render: Callable[[JobSnapshot, str], bytes],
        count_outcome: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        """Prepare the connection pool.

        render: makes the body of a delivery from the job and the base of its links.
        count_outcome: called with the outcome of each attempt.
        """
        self.settings = settings
        self.jobs = jobs
        self.render = render
        self.count_outcome = count_outcome
        self._secrets = settings.webhook_keys()
        self._active = Counter[str]()
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpcore.default_ssl_context(),
            max_connections=MAX_CONCURRENT,
            max_keepalive_connections=0,
            network_backend=CheckedNetwork(settings.webhook_allow_private_networks),
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Send deliveries until the event is set, then finish the attempts in progress."""
        sending: set[asyncio.Task[None]] = set()
        while not stop.is_set():
            for lane, delivery, attempt in await self._lease_due(MAX_CONCURRENT - len(sending)):
                task = asyncio.create_task(self._deliver(lane, delivery, attempt))
                sending.add(task)
                task.add_done_callback(sending.discard)
            await sleep_until_stop(stop, POLL_S)
        if sending:
            await asyncio.wait(sending)
        await self._pool.aclose()

    async def _lease_due(self, limit: int) -> list[Delivery]:
        """Lease at most `limit` due deliveries, of the lanes with the fewest attempts first."""
        if not limit:
            return []
        lease_s = 2 * self.settings.webhook_timeout_s + LEASE_MARGIN_S
        try:
            leased = await self.jobs.redis.eval(
                _LEASE,
                2,
                redis_keys.WEBHOOKS,
                redis_keys.WEBHOOK_TRIES,
                limit,
                lease_s,
                redis_keys.webhooks(""),
                MAX_PER_LANE,
                json.dumps(self._active),
            )
        except RedisError as error:
            log.debug("webhooks wait until Redis is available: %s", describe(error))
            return []
        return [(lane.decode(), delivery.decode(), attempt) for lane, delivery, attempt in leased]

    async def _deliver(self, lane: str, delivery: str, attempt: int) -> None:
        job_id, _, event = delivery.partition(":")
        self._active[lane] += 1
        try:
            outcome = await self._attempt(job_id, event, attempt)
            async with self.jobs.redis.pipeline() as pipe:
                key = redis_keys.webhooks(lane)
                if outcome == "failed":
                    pipe.eval(_POSTPONE, 1, key, delivery, pause_s(attempt))
                else:
                    pipe.zrem(key, delivery)
                    pipe.hdel(redis_keys.WEBHOOK_TRIES, delivery)
                await pipe.execute()
            self.count_outcome(outcome)
        # The lease expires, and the delivery is repeated.
        except RedisError as error:
            log.warning(
                "cannot record the webhook of job %s (%s), it is repeated: %s",
                job_id,
                event,
                describe(error),
            )
        finally:
            self._active[lane] -= 1
            if not self._active[lane]:
                del self._active[lane]

    async def _attempt(self, job_id: str, event: str, attempt: int) -> Outcome:
        """Send one delivery with the job's current state."""
        try:
            snapshot = await self.jobs.get(job_id)
            webhook = snapshot.record.spec.webhook
            if webhook is None:
                return "expired"
            # The settings may have changed since the request was accepted.
            if reason := rejection_reason(webhook.url, self.settings):
                raise AddressNotAllowedError(reason)
            body = self.render(snapshot, webhook.base_url)
            async with asyncio.timeout(self.settings.webhook_timeout_s):
                status = await self._post(webhook.url, f"msg_{job_id}_{event}", body)
        except JobNotFound:
            return "expired"
        except AddressNotAllowedError as error:
            log.warning("the webhook of job %s (%s) is refused: %s", job_id, event, error)
            return "refused"
        except _NETWORK_ERRORS as error:
            failure = str(error) or type(error).__name__
        else:
            if 200 <= status < 300:
                return "delivered"
            failure = f"status {status}"
            # 410 Gone ends deliveries in Standard Webhooks.
            attempt = MAX_ATTEMPTS if status == 410 else attempt
        is_last = attempt >= MAX_ATTEMPTS
        log.warning(
            "the webhook of job %s (%s) failed, %s: %s",
            job_id,
            event,
            "giving up" if is_last else "retrying later",
            failure,
        )
        return "given_up" if is_last else "failed"

    async def _post(self, url: str, message_id: str, body: bytes) -> int:
        """Send a body and return the response's status. The response's body is not read."""
        headers = {
            "host": urlsplit(url).netloc,
            "content-type": "application/json",
            "user-agent": "unclip-service",
        } | signing.headers(self._secrets, message_id, int(time.time()), body)
        async with self._pool.stream(
            "POST", url, headers=list(headers.items()), content=body
        ) as response:
            return int(response.status)


def pause_s(attempts: int) -> float:
    """Return the seconds until the next attempt, after this many.

    The pause grows with each attempt and varies, so that a receiver that comes back does not get
    all deliveries at once.
    """
    jitter = random.uniform(1 - JITTER, 1 + JITTER)
    return float(FIRST_PAUSE_S * 3 ** (attempts - 1) * jitter)
