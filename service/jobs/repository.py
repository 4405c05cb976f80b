"""Read, await and cancel jobs in Redis."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from contextlib import aclosing
from typing import Any

import redis
from fastapi.concurrency import run_in_threadpool
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff
from redis.retry import Retry
from rq.job import Job as RQJob

from contracts import redis_keys
from contracts.jobs import ENDED, JobRecord, JobSpec
from contracts.transitions import finish_job
from infra.redis import close, connect, connect_async, server_time
from service.errors import JobNotFound
from service.jobs.estimate import JobSnapshot, live_workers, read_snapshot
from service.jobs.events import Events
from service.settings import Settings

SOCKET_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 2.0
HEALTH_CHECK_INTERVAL_S = 30
WRITE_PROBE_TTL_S = 10
# Each waiting client uses a connection. The pool opens only what is used.
MAX_CONNECTIONS = 2000
JOB_ID = re.compile("[0-9a-f]{32}")


def new_link() -> str:
    """Return a new token that opens a job's images without an API key."""
    return secrets.token_urlsafe(16)


class JobRepository:
    """The jobs in Redis: one asyncio client for reading, one blocking client for the rest."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        options: dict[str, Any] = {
            "socket_timeout": SOCKET_TIMEOUT_S,
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "health_check_interval": HEALTH_CHECK_INTERVAL_S,
        }
        backoff = ExponentialBackoff(cap=0.5, base=0.05)
        # Any: redis-py's types of replies differ from release to release.
        self.redis: Any = connect_async(
            settings.redis_url,
            max_connections=MAX_CONNECTIONS,
            retry=AsyncRetry(backoff, 2),
            **options,
        )
        self.blocking_redis: Any = connect(settings.redis_url, retry=Retry(backoff, 2), **options)
        self.events = Events(self.redis)

    async def close(self) -> None:
        """Close all connections."""
        await self.events.close()
        await close(self.redis, self.blocking_redis)

    async def get(self, job_id: str) -> JobSnapshot:
        """Return a job and its place in the queue. Raises JobNotFound."""
        # Other text could name another key of Redis.
        if not JOB_ID.fullmatch(job_id):
            raise self.not_found(job_id)
        snapshot = await read_snapshot(self.redis, job_id)
        if snapshot is None:
            raise self.not_found(job_id)
        return snapshot

    async def get_owned(self, job_id: str, owner_id: str | None) -> JobSnapshot:
        """Return a job of this owner; None stands for any. Raises JobNotFound."""
        snapshot = await self.get(job_id)
        if owner_id is not None and snapshot.record.spec.owner != owner_id:
            raise self.not_found(job_id)
        return snapshot

    async def is_linked(self, job_id: str, link: str) -> bool:
        """Return whether this token opens the images of a job."""
        text = await self.redis.hget(redis_keys.job(job_id), "spec")
        if text is None:
            return False
        token = JobSpec.model_validate_json(text).link
        return token is not None and secrets.compare_digest(token.encode(), link.encode())

    async def rotate_link(self, job_id: str) -> None:
        """Give a job another link, so that URLs with the old one no longer open its images.

        Raises JobNotFound if the job does not exist or has no link.
        """
        key = redis_keys.job(job_id)
        async with self.redis.pipeline() as pipe:
            while True:
                try:
                    await pipe.watch(key)
                    text = await pipe.hget(key, "spec")
                    spec = json.loads(text or "{}")
                    if "link" not in spec:
                        raise self.not_found(job_id)
                    pipe.multi()
                    pipe.hset(key, "spec", json.dumps(spec | {"link": new_link()}))
                    await pipe.execute()
                    return
                except redis.WatchError:
                    # The worker wrote another field meanwhile.
                    continue

    async def wait(self, job_id: str, seconds: float) -> bool:
        """Wait at most `seconds` for a job to end. Return whether it has ended.

        The end is an event in the job's stream, so it is not missed if it comes before the wait.
        The wait continues while Redis is unavailable.
        """
        try:
            async with asyncio.timeout(seconds), aclosing(self.events.listen(job_id)) as events:
                async for event in events:
                    if event.name == "ended":
                        return True
        except TimeoutError:
            pass
        return False

    async def cancel(self, job_id: str) -> None:
        """End a waiting or running job; its worker stops within two steps.

        An ended job does not change. Raises JobNotFound.
        """
        await run_in_threadpool(self._cancel, job_id)

    def _cancel(self, job_id: str) -> None:
        key = redis_keys.job(job_id)
        with self.blocking_redis.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(key)
                    fields = pipe.hgetall(key)
                    if b"spec" not in fields:
                        raise self.not_found(job_id)
                    record = JobRecord.from_hash(job_id, fields)
                    if record.status in ENDED:
                        return
                    finished_at = server_time(pipe)
                    pipe.multi()
                    pipe.lrem(redis_keys.QUEUE_LIST, 1, job_id)
                    if record.status == "queued":
                        # A worker that has just dequeued its id finds nothing to run.
                        pipe.delete(RQJob.key_for(job_id))
                    ttl_s = self.settings.result_ttl_s
                    finish_job(pipe, record, "cancelled", ttl_s, finished_at=finished_at)
                    pipe.publish(redis_keys.CANCELLED, job_id)
                    pipe.execute()
                    return
                except redis.WatchError:
                    # The job started or ended meanwhile: read it again.
                    pipe.reset()

    async def check_writable(self) -> None:
        """Write a key. Raises RedisError if Redis is away or refuses writes, such as when full."""
        await self.redis.set(redis_keys.WRITE_PROBE, 1, ex=WRITE_PROBE_TTL_S)

    async def has_live_worker(self) -> bool:
        """Return whether any worker has sent a heartbeat recently."""
        return bool(await live_workers(self.redis))

    def not_found(self, job_id: str) -> JobNotFound:
        """Make the error of a job that does not exist."""
        hours = self.settings.result_ttl_s // 3600
        return JobNotFound(
            f"There is no job {job_id[:80]!r}. Ended jobs are deleted after {hours} hours."
        )
