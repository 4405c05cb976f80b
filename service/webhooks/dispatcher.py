"""Deliver webhooks, at least once.

Due deliveries (`job:event`) wait in a Redis sorted set. A dispatcher leases one by moving its due
time past the longest attempt, and removes it after a 2xx or the last attempt. If the dispatcher
dies, the lease expires and another one retries.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Literal
from urllib.parse import urlsplit

import httpcore
from redis.exceptions import RedisError

from contracts import redis_keys
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
POLL_S = 0.5
# Time for Redis and the event loop around an attempt.
LEASE_MARGIN_S = 5
Outcome = Literal["delivered", "failed", "given_up", "refused", "expired"]
# KEYS: due deliveries, number of attempts. ARGV: maximum count, lease in seconds.
_LEASE = """
local now, leased = tonumber(redis.call('TIME')[1]), {}
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now + 1, 'LIMIT', 0, ARGV[1])
for _, delivery in ipairs(due) do
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), delivery)
  leased[#leased + 1] = {delivery, redis.call('HINCRBY', KEYS[2], delivery, 1)}
end
return leased
"""
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
            for delivery, attempt in await self._lease_due(MAX_CONCURRENT - len(sending)):
                task = asyncio.create_task(self._deliver(delivery, attempt))
                sending.add(task)
                task.add_done_callback(sending.discard)
            await sleep_until_stop(stop, POLL_S)
        if sending:
            await asyncio.wait(sending)
        await self._pool.aclose()

    async def _lease_due(self, limit: int) -> list[tuple[str, int]]:
        """Lease at most `limit` due deliveries. Return each with the number of its attempt."""
        if not limit:
            return []
        lease_s = 2 * self.settings.webhook_timeout_s + LEASE_MARGIN_S
        try:
            leased = await self.jobs.redis.eval(
                _LEASE, 2, redis_keys.WEBHOOKS, redis_keys.WEBHOOK_TRIES, limit, lease_s
            )
        except RedisError as error:
            log.debug("webhooks wait until Redis is available: %s", error)
            return []
        return [(delivery.decode(), attempt) for delivery, attempt in leased]

    async def _deliver(self, delivery: str, attempt: int) -> None:
        job_id, _, event = delivery.partition(":")
        try:
            outcome = await self._attempt(job_id, event, attempt)
            async with self.jobs.redis.pipeline() as pipe:
                if outcome == "failed":
                    due_at = time.time() + pause_s(attempt)
                    pipe.zadd(redis_keys.WEBHOOKS, {delivery: due_at}, xx=True)
                else:
                    pipe.zrem(redis_keys.WEBHOOKS, delivery)
                    pipe.hdel(redis_keys.WEBHOOK_TRIES, delivery)
                await pipe.execute()
            self.count_outcome(outcome)
        # The lease expires, and the delivery is repeated.
        except RedisError as error:
            log.warning(
                "cannot record the webhook of job %s (%s), it is repeated: %s", job_id, event, error
            )

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
