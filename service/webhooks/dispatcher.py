"""Webhooks: a job's end, told to whom its request named.

Signed by the Standard Webhooks scheme (https://www.standardwebhooks.com). A delivery waits in Redis, `job:event` in a sorted set by
when it is due. Whoever takes it moves it into the future by more than an attempt may last: that is its lease. It leaves the set
once it was answered with 2xx or is given up, so one whose sender dies is taken again, by any service: at least once, and twice only then.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import random
import time
from collections.abc import Callable
from typing import Literal
from urllib.parse import urlsplit

import httpcore
from redis.exceptions import RedisError

from contracts import redis_keys
from contracts.webhooks import Webhook
from service.background import rest
from service.errors import JobNotFound
from service.jobs.repository import Jobs
from service.settings import Settings
from service.webhooks.policy import objection
from service.webhooks.ssrf import CheckedNetwork, RefusedError

log = logging.getLogger("service.webhooks.dispatcher")
TRIES = 9
FIRST_PAUSE_S = (
    5.0  # and three times as long after each attempt: nine of them in some four and a half hours
)
AT_ONCE = 32
POLL_S = 0.5
Outcome = Literal["delivered", "failed", "given_up", "refused", "expired"]
_TAKE = """
local now, taken = tonumber(redis.call('TIME')[1]), {}
for _, delivery in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now + 1, 'LIMIT', 0, ARGV[1])) do
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), delivery)
  taken[#taken + 1] = {delivery, redis.call('HINCRBY', KEYS[2], delivery, 1)}
end
return taken
"""


def signature(secrets: list[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """The header webhook-signature: one signature by each secret, so that secrets can be changed without a gap."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return " ".join(
        f"v1,{base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()}"
        for secret in secrets
    )


def pause(tries: int) -> float:
    """Seconds to the next attempt after so many: longer each time, and never quite the same, so that receivers that come back are not
    called by all at once."""
    return float(FIRST_PAUSE_S * 3 ** (tries - 1) * random.uniform(0.75, 1.25))


class Courier:
    """Sends what is due, in the service's event loop. Any number of them may run beside each other."""

    def __init__(
        self,
        settings: Settings,
        jobs: Jobs,
        count: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        """`count` is told of every attempt."""
        self.settings = settings
        self.jobs = jobs
        self.count = count
        self._secrets = settings.webhook_keys()
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpcore.default_ssl_context(),
            max_connections=AT_ONCE,
            max_keepalive_connections=0,
            network_backend=CheckedNetwork(settings.webhook_private),
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Send until told to stop; then end the attempts that are under way."""
        sending: set[asyncio.Task[None]] = set()
        while not stop.is_set():
            for delivery, tries in await self._take(AT_ONCE - len(sending)):
                task = asyncio.create_task(self._deliver(delivery, tries))
                sending.add(task)
                task.add_done_callback(sending.discard)
            await rest(stop, POLL_S)
        if sending:
            await asyncio.wait(sending)
        await self._pool.aclose()

    async def _take(self, most: int) -> list[tuple[str, int]]:
        """Take the lease of what is due. Without Redis there is nothing to do."""
        if not most:
            return []
        lease = 2 * self.settings.webhook_timeout + 5  # an attempt, and what lies around it
        try:
            taken = await self.jobs.redis.eval(
                _TAKE, 2, redis_keys.WEBHOOKS, redis_keys.WEBHOOK_TRIES, most, lease
            )
        except RedisError as error:
            log.debug("webhooks wait, as Redis does not answer: %s", error)
            return []
        return [(delivery.decode(), tries) for delivery, tries in taken]

    async def _deliver(self, delivery: str, tries: int) -> None:
        job_id, _, event = delivery.partition(":")
        try:
            outcome = await self._attempt(job_id, event, tries)
            async with self.jobs.redis.pipeline() as pipe:
                if outcome == "failed":
                    pipe.zadd(redis_keys.WEBHOOKS, {delivery: time.time() + pause(tries)}, xx=True)
                else:
                    pipe.zrem(redis_keys.WEBHOOKS, delivery)
                    pipe.hdel(redis_keys.WEBHOOK_TRIES, delivery)
                await pipe.execute()
            self.count(outcome)
        except RedisError as error:
            log.warning(
                "the webhook of job %s (%s) is sent again, as Redis does not answer: %s",
                job_id,
                event,
                error,
            )

    async def _attempt(self, job_id: str, event: str, tries: int) -> Outcome:
        """One attempt. The job is told as it stands now: its links lead where its request reached the service."""
        written = await self.jobs.redis.hget(redis_keys.job(job_id), "webhook")
        if written is None:
            return "expired"
        webhook = Webhook.model_validate_json(written)
        try:
            if why := objection(
                webhook.url, self.settings
            ):  # the settings may have changed since it was accepted
                raise RefusedError(why)
            body = (await self.jobs.find(job_id, webhook.base_url)).model_dump_json().encode()
            async with asyncio.timeout(self.settings.webhook_timeout):
                status = await self._post(webhook.url, f"msg_{job_id}_{event}", body)
        except JobNotFound:
            return "expired"
        except RefusedError as error:
            log.warning("the webhook of job %s (%s) is not sent: %s", job_id, event, error)
            return "refused"
        except (
            OSError,
            TimeoutError,
            UnicodeError,
            httpcore.TimeoutException,
            httpcore.NetworkError,
            httpcore.ProtocolError,
        ) as error:
            trouble = str(error) or type(error).__name__
        else:
            if 200 <= status < 300:
                return "delivered"
            trouble = f"it was answered with {status}"
            tries = TRIES if status == 410 else tries  # Gone: the scheme's word for "no more"
        last = tries >= TRIES
        log.warning(
            "the webhook of job %s (%s) failed: %s; %s",
            job_id,
            event,
            trouble,
            "given up" if last else "tried again later",
        )
        return "given_up" if last else "failed"

    async def _post(self, url: str, message_id: str, body: bytes) -> int:
        """The answer's status. Its body is not read, and a redirect is an answer like any other."""
        timestamp = int(time.time())
        headers = {
            "host": urlsplit(url).netloc,
            "content-type": "application/json",
            "user-agent": "unclip-service",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self._secrets, message_id, timestamp, body),
        }
        async with self._pool.stream(
            "POST", url, headers=list(headers.items()), content=body
        ) as response:
            return int(response.status)
