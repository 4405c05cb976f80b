"""Jobs in Redis, from the service's side: accept one, find one, wait for one."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
import uuid
from dataclasses import dataclass
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from rq import Queue
from rq import Retry as JobRetry

from contracts import keys
from contracts.fields import MAX_PICTURES, MAX_SEED, PARAMETERS
from contracts.jobs import ENDED, AnimatedImage, Image, Job, Links, Record, now, read_record, written
from service import index
from service.intake import Work
from service.problems import ProblemError
from service.settings import Settings

SOCKET_TIMEOUT_S = 5.0
AGAIN_S = 0.5  # after Redis did not answer a wait
BLOCK_S = 2.0  # a wait asks Redis in turns of this length, well under the socket's timeout


@dataclass(frozen=True)
class Accepted:
    """A job that is on its way; `repeated` where the same Idempotency-Key started it earlier."""

    job_id: str
    repeated: bool


class Jobs:
    """The store. One asynchronous client for reading; one blocking client for RQ, which has no other."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        url = str(settings.redis_url)
        timeouts: dict[str, Any] = {"socket_timeout": SOCKET_TIMEOUT_S, "socket_connect_timeout": 2.0, "health_check_interval": 30}
        # Waiters hold a connection each, so the pool is wide; it opens only what is used.
        # Any: what redis-py says of its answers' types differs from release to release.
        self.redis: Any = redis.asyncio.Redis.from_url(
            url, max_connections=2000, retry=AsyncRetry(ExponentialBackoff(cap=0.5, base=0.05), 2), **timeouts
        )
        self._blocking: Any = redis.Redis.from_url(url, retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 2), **timeouts)
        self._queue = Queue(keys.QUEUE, connection=self._blocking, serializer="json", default_timeout=settings.job_timeout)

    async def close(self) -> None:
        """Give the connections back."""
        await self.redis.aclose()
        self._blocking.close()

    def accept(self, work: Work, idempotency_key: str | None) -> Accepted:
        """Record and enqueue a job in one transaction: it is there wholly or not at all. Blocking: call it in a thread.

        ProblemError 429 where the queue is full, 422 where the Idempotency-Key was used for another request."""
        request = work.fields.model_dump()
        told = [work.operation, request, {name: hashlib.sha256(png).hexdigest() for name, png in work.pictures.items()}]
        told += [work.webhook.model_dump(exclude={"base_url"})] if work.webhook else []
        fingerprint = hashlib.sha256(json.dumps(told).encode()).hexdigest()
        if "seed" in request and request["seed"] is None:
            request["seed"] = secrets.randbelow(MAX_SEED + 1 - MAX_PICTURES)
        job_id = uuid.uuid4().hex
        key_hash = hashlib.sha256(idempotency_key.encode()).hexdigest() if idempotency_key else None
        key = keys.idempotency(key_hash) if key_hash else None
        with self._blocking.pipeline() as pipe:
            while True:
                try:
                    if key is not None:
                        pipe.watch(key)
                        earlier = json.loads(pipe.get(key) or "{}")
                        if earlier and pipe.exists(keys.job(earlier["id"])):
                            return self._repeat(earlier, fingerprint)
                    waiting = int(pipe.llen(keys.QUEUE_LIST)) if key else int(self._blocking.llen(keys.QUEUE_LIST))
                    self._refuse_if_full(waiting)
                    pipe.multi()
                    if key is not None:  # without a time to live: it goes with its job, to which whoever ends the job sees
                        pipe.set(key, json.dumps({"id": job_id, "fingerprint": fingerprint}))
                    self._record(pipe, job_id, work, request, key_hash)
                    pipe.execute()
                    return Accepted(job_id, repeated=False)
                except redis.WatchError:
                    continue  # the same key came in just now by another request: look again

    def _refuse_if_full(self, waiting: int) -> None:
        if waiting >= self.settings.max_queued_jobs:
            detail = f"{waiting} jobs are waiting, and this service holds {self.settings.max_queued_jobs}. Try again later."
            raise ProblemError(429, detail, headers={"Retry-After": "30"})

    def _repeat(self, earlier: dict[str, str], fingerprint: str) -> Accepted:
        if earlier["fingerprint"] != fingerprint:
            raise ProblemError(422, "This Idempotency-Key was used for another request. Take a new key for a new request.")
        return Accepted(earlier["id"], repeated=True)

    def _record(self, pipe: Any, job_id: str, work: Work, request: dict[str, Any], idempotency: str | None) -> None:
        inputs = list(work.pictures)
        created_at, webhook = now(), work.webhook.model_dump() if work.webhook else None
        fields = written(operation=work.operation, status="queued", request=request, inputs=inputs, created_at=created_at)
        pipe.hset(keys.job(job_id), mapping=fields | written(webhook=webhook, idempotency=idempotency))
        index.enter(pipe, job_id, created_at)
        for name, png in work.pictures.items():
            pipe.set(keys.source(job_id, name), png)  # until the worker ends the job
        retries = self.settings.job_retries
        self._queue.enqueue_call(
            keys.TASK,
            args=(job_id,),
            job_id=job_id,
            description=f"{work.operation} {job_id}",  # not the arguments: prompts do not belong in logs
            timeout=self.settings.job_timeout,
            result_ttl=60,
            failure_ttl=self.settings.result_ttl,
            retry=JobRetry(max=retries) if retries else None,
            pipeline=pipe,
        )

    async def find(self, job_id: str, base_url: str) -> Job:
        """The job as it is told. ProblemError 404 where there is none (any more)."""
        record = await self._read(job_id)
        position = await self.redis.lpos(keys.QUEUE_LIST, job_id) if record.status == "queued" else None
        url = f"{base_url}/jobs/{job_id}"
        images = [Image(url=f"{url}/images/{index}.png", **picture.model_dump()) for index, picture in enumerate(record.images)]
        return Job(
            id=job_id,
            queue_position=position,
            parameters={k: v for k, v in record.request.items() if v is not None or k in PARAMETERS} | record.parameters,
            images=images,
            animation=AnimatedImage(format=record.animation, url=f"{url}/animation") if record.animation else None,
            links=Links(self=url),
            **record.model_dump(exclude={"request", "parameters", "images", "animation", "inputs", "idempotency", "webhook"}),
        )

    async def _read(self, job_id: str) -> Record:
        fields = await self.redis.hgetall(keys.job(job_id))
        if not fields:
            kept = self.settings.result_ttl // 3600
            raise ProblemError(404, f"There is no job {job_id[:80]!r}. Ended jobs are kept for {kept} hours.")
        return read_record(fields)

    async def image(self, job_id: str, index: int) -> bytes:
        """A picture's PNG. ProblemError 404 where there is none (yet, or any more)."""
        png = await self.redis.get(keys.image(job_id, index))
        if png is None:
            record = await self._read(job_id)
            raise ProblemError(404, f"Job {job_id} is {record.status} and has {len(record.images)} pictures; there is none at {index}.")
        return bytes(png)

    async def picture(self, job_id: str, index: int) -> bytes | None:
        """A picture's PNG, or None."""
        png = await self.redis.get(keys.image(job_id, index))
        return None if png is None else bytes(png)

    async def animation(self, job_id: str) -> tuple[str, bytes]:
        """A job's animation: its format and content. ProblemError 404 where there is none (yet, or any more)."""
        record = await self._read(job_id)
        content = await self.redis.get(keys.animation(job_id)) if record.animation else None
        if content is None:
            raise ProblemError(404, f"Job {job_id} is {record.status} and has no animation. Ask for one by animation: webp or apng.")
        return str(record.animation), bytes(content)

    async def wait(self, job_id: str, seconds: float) -> bool:
        """Wait until the job ended, at most so long. True where it has. The end stands in the job's event stream, so it is found
        also where it came before the wait. Where Redis goes away meanwhile, the wait goes on; RedisError where it stays away."""
        deadline, last = time.monotonic() + seconds, "0"
        while True:
            left = deadline - time.monotonic()
            try:
                status = await self.redis.hget(keys.job(job_id), "status")
                if status is None or status.decode() in ENDED:
                    return status is not None
                if left <= 0:
                    return False
                block = max(1, int(min(left, BLOCK_S) * 1000))
                for _, entries in await self.redis.xread({keys.events(job_id): last}, block=block) or []:
                    last = entries[-1][0]
            except RedisError:
                if left <= 0:
                    raise
                await asyncio.sleep(min(left, AGAIN_S))

    async def workers_alive(self) -> int:
        """How many workers have given a sign of life lately."""
        names = [name.decode() for name in await self.redis.smembers(keys.WORKERS)]
        if not names:
            return 0
        beats = await self.redis.mget([keys.worker(name) for name in names])
        gone = [name for name, beat in zip(names, beats, strict=True) if beat is None]
        if gone:
            await self.redis.srem(keys.WORKERS, *gone)
        return len(names) - len(gone)
