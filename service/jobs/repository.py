"""Jobs in Redis, from the service's side: accept one, find one, wait for one."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import uuid
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import redis
import structlog
from fastapi.concurrency import run_in_threadpool
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff
from redis.retry import Retry
from rq import Retry as JobRetry
from rq.job import Job as RQJob

from contracts import redis_keys
from contracts.fields import MAX_IMAGES, MAX_SEED, PARAMETERS
from contracts.jobs import (
    ENDED,
    AnimatedImage,
    Image,
    ImageInfo,
    Job,
    Links,
    Record,
    now,
    read_record,
    written,
)
from contracts.transitions import finish_job
from infra.logging import current_request_id
from infra.queue import PriorityQueue
from infra.redis import close, connect, connect_async
from service.errors import ImageNotFound, InvalidRequest, JobNotFound, QueueFull
from service.jobs import index, quota
from service.jobs.estimate import Standing, ask, beats, room, standing_of
from service.jobs.events import Events
from service.jobs.result_store import ResultStore
from service.jobs.tracing import enqueue_span
from service.requests.parse import Work
from service.requests.prompt_filter import DenyList, captions
from service.settings import Settings

log = structlog.stdlib.get_logger("service.jobs.repository")
SOCKET_TIMEOUT_S = 5.0


_KEPT_BACK = {
    "request",
    "parameters",
    "images",
    "animation",
    "inputs",
    "idempotency",
    "webhook",
    "owner",
    "link",
    "trace",
}  # of a record


@dataclass(frozen=True)
class Accepted:
    """A job that is on its way, and how it stood at that moment; `repeated` where the same Idempotency-Key started it earlier."""

    job_id: str
    repeated: bool
    standing: Standing | None = None


class Jobs:
    """The store. One asynchronous client for reading; one blocking client for RQ, which has no other."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = ResultStore(settings.object_store_url) if settings.object_store_url else None
        self.deny = DenyList(settings.deny_list) if settings.deny_list else None
        url = settings.redis_url
        timeouts: dict[str, Any] = {
            "socket_timeout": SOCKET_TIMEOUT_S,
            "socket_connect_timeout": 2.0,
            "health_check_interval": 30,
        }
        # Waiters hold a connection each, so the pool is wide; it opens only what is used.
        # Any: what redis-py says of its answers' types differs from release to release.
        self.redis: Any = connect_async(
            url,
            max_connections=2000,
            retry=AsyncRetry(ExponentialBackoff(cap=0.5, base=0.05), 2),
            **timeouts,
        )
        self._blocking: Any = connect(
            url, retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 2), **timeouts
        )
        self.events = Events(self.redis)
        self._queue = PriorityQueue(
            redis_keys.QUEUE,
            connection=self._blocking,
            serializer="json",
            default_timeout=settings.job_timeout,
        )

    async def close(self) -> None:
        """Give the connections back."""
        await self.events.close()
        await close(self.redis, self._blocking)

    def accept(self, work: Work, idempotency_key: str | None, owner: quota.Owner | None) -> Accepted:
        """Record and enqueue a job in one transaction: it is there wholly or not at all. Blocking: call it in a thread.
        `owner`: the API key that the job belongs to; None if keys are not required.

        LimitExceeded where the queue is full or the caller has too many jobs, 422 where a caption is denied or the Idempotency-Key
        was used for another request."""
        if self.deny is not None:
            self.deny.check(work.fields)
        request = work.fields.model_dump()
        told = [
            work.operation,
            request,
            {name: hashlib.sha256(png).hexdigest() for name, png in work.images.items()},
        ]
        told += [work.webhook.model_dump(exclude={"base_url"})] if work.webhook else []
        fingerprint = hashlib.sha256(json.dumps(told).encode()).hexdigest()
        if "seed" in request and request["seed"] is None:
            request["seed"] = secrets.randbelow(MAX_SEED + 1 - MAX_IMAGES)
        priority = request.pop("priority")
        job_id = uuid.uuid4().hex
        owner_id = owner.id if owner else None
        key_hash = (
            hashlib.sha256(f"{owner_id or ''} {idempotency_key}".encode()).hexdigest()
            if idempotency_key
            else None
        )
        key = redis_keys.idempotency(key_hash) if key_hash else None
        watched = ([key] if key else []) + ([redis_keys.active_jobs(owner.id)] if owner else [])
        with self._blocking.pipeline() as pipe:
            while True:
                try:
                    if watched:
                        pipe.watch(*watched)
                    if key is not None:
                        earlier = json.loads(pipe.get(key) or "{}")
                        if earlier and pipe.exists(redis_keys.job(earlier["id"])):
                            return self._repeat(earlier, fingerprint)
                    self._refuse_if_full()
                    held = quota.take(self._blocking, owner) if owner else None
                    pipe.multi()
                    if (
                        key is not None
                    ):  # without a time to live: it goes with its job, to which whoever ends the job sees
                        pipe.set(key, json.dumps({"id": job_id, "fingerprint": fingerprint}))
                    if owner is not None:
                        quota.enter(pipe, owner, job_id, held)
                    more = {
                        "priority": priority,
                        "idempotency": key_hash,
                        "owner": owner_id,
                        "link": secrets.token_urlsafe(16) if owner else None,
                    }
                    with enqueue_span(work.operation, job_id) as trace:
                        self._record(pipe, job_id, work, request, more | {"trace": trace})
                        ask(pipe, job_id)
                        standing = standing_of(pipe.execute()[-1])
                    shown = (
                        {"captions": dict(captions(work.fields))}
                        if self.settings.log_prompts
                        else {}
                    )
                    log.info("job accepted", job_id=job_id, operation=work.operation, **shown)
                    return Accepted(job_id, repeated=False, standing=standing)
                except redis.WatchError:
                    continue  # the same Idempotency-Key or API key came in just now by another request: look again

    def _refuse_if_full(self) -> None:
        waiting = int(self._blocking.llen(redis_keys.QUEUE_LIST))
        most = self.settings.max_queued_jobs
        if waiting >= most:
            detail = f"The queue is full ({waiting} of {most} jobs waiting). Retry later."
            raise QueueFull(detail, retry_after_s=room(self._blocking, waiting - most + 1))

    def _repeat(self, earlier: dict[str, str], fingerprint: str) -> Accepted:
        if earlier["fingerprint"] != fingerprint:
            raise InvalidRequest(
                "This Idempotency-Key was used for another request. Take a new key for a new request.",
            )
        return Accepted(earlier["id"], repeated=True)

    def _record(
        self, pipe: Any, job_id: str, work: Work, request: dict[str, Any], fields: dict[str, Any]
    ) -> None:
        inputs = list(work.images)
        webhook = work.webhook.model_dump() if work.webhook else None
        created_at = now()
        fields |= {
            "operation": work.operation,
            "status": "queued",
            "request": request,
            "inputs": inputs,
            "webhook": webhook,
        }
        pipe.hset(
            redis_keys.job(job_id),
            mapping=written(created_at=created_at, request_id=current_request_id(), **fields),
        )
        index.enter(pipe, job_id, created_at, fields["owner"])
        for name, png in work.images.items():
            pipe.set(redis_keys.input_image(job_id, name), png)  # until the worker ends the job
        retries = self.settings.job_retries
        self._queue.enqueue_call(
            redis_keys.TASK,
            args=(job_id,),
            job_id=job_id,
            description=f"{work.operation} {job_id}",  # not the arguments: prompts do not belong in logs
            timeout=self.settings.job_timeout,
            result_ttl=60,
            failure_ttl=self.settings.result_ttl_s,
            retry=JobRetry(max=retries, enqueue_at_front=True) if retries else None,
            pipeline=pipe,
        )

    async def find(self, job_id: str, base_url: str) -> Job:
        """The job as it is told. JobNotFound where there is none (any more)."""
        return self.told(job_id, standing_of(await ask(self.redis, job_id)), base_url)

    def told(self, job_id: str, standing: Standing, base_url: str) -> Job:
        """A job's standing as it is told. JobNotFound where there is no such job."""
        record = standing.record
        waits = standing.place
        if record is None:
            raise self._unknown(job_id)
        running = (
            record.progress.eta_seconds if record.status == "running" and record.progress else None
        )
        url = f"{base_url}/jobs/{job_id}"
        link = f"?link={record.link}" if record.link else ""
        images = [
            Image(url=f"{url}/images/{index}.png{link}", **image.model_dump())
            for index, image in enumerate(record.images)
        ]
        return Job(
            id=job_id,
            queue_position=waits.position,
            eta_seconds=waits.eta_seconds if record.status == "queued" else running,
            parameters={k: v for k, v in record.request.items() if v is not None or k in PARAMETERS}
            | record.parameters,
            images=images,
            animation=AnimatedImage(format=record.animation, url=f"{url}/animation{link}")
            if record.animation
            else None,
            links=Links(self=url, events=f"{url}/events"),
            **record.model_dump(exclude=_KEPT_BACK),
        )

    async def _read(self, job_id: str) -> Record:
        return self._known(job_id, await self.redis.hgetall(redis_keys.job(job_id)))

    def _known(self, job_id: str, fields: dict[bytes, bytes]) -> Record:
        if not fields:
            raise self._unknown(job_id)
        return read_record(fields)

    def _unknown(self, job_id: str) -> JobNotFound:
        kept = self.settings.result_ttl_s // 3600
        return JobNotFound(
            f"There is no job {job_id[:80]!r}. Ended jobs are kept for {kept} hours."
        )

    async def belongs(self, job_id: str, owner: str) -> None:
        """JobNotFound where this is not a job of the owner's, as if there were none."""
        if not await self._owned(job_id, owner):
            raise self._unknown(job_id)

    async def _owned(self, job_id: str, owner: str) -> bool:
        return bool(
            await self.redis.hget(redis_keys.job(job_id), "owner") == json.dumps(owner).encode()
        )

    async def linked(self, job_id: str, link: str) -> bool:
        """True where this opens the job's images."""
        kept = await self.redis.hget(redis_keys.job(job_id), "link")
        return kept is not None and secrets.compare_digest(kept, json.dumps(link).encode())

    async def read_image(self, job_id: str, index: int) -> bytes:
        """An image's PNG. JobNotFound where there is none (yet, or any more)."""
        png = await self.find_image(job_id, index, owner=None)
        if png is None:
            raise _no_image(job_id, await self._read(job_id), index)
        return png

    async def image_info(self, job_id: str, index: int) -> ImageInfo:
        """What is known of an image. JobNotFound where the job has none there (yet, or any more)."""
        record = await self._read(job_id)
        if index >= len(record.images):
            raise _no_image(job_id, record, index)
        return record.images[index]

    async def find_image(self, job_id: str, index: int, owner: str | None) -> bytes | None:
        """An image's PNG, or None. `owner`: whose job it has to be; None for anybody's."""
        if owner is not None and not await self._owned(job_id, owner):
            return None
        png = await self.redis.get(redis_keys.image(job_id, index))
        if (
            png is None
            and self.store is not None
            and await self.redis.exists(redis_keys.job(job_id))
        ):  # the store's outlives it a little
            return await self.store.read(redis_keys.stored_image(job_id, index))
        return None if png is None else bytes(png)

    async def animation_format(self, job_id: str) -> str:
        """The format of a job's animation. JobNotFound where there is none (yet, or any more)."""
        record = await self._read(job_id)
        if record.animation is None:
            raise ImageNotFound(
                f"Job {job_id} is {record.status} and has no animation. Ask for one by animation: webp or apng.",
            )
        return record.animation

    async def wait(self, job_id: str, seconds: float) -> bool:
        """Wait until the job ended, at most so long. True where it has. The end stands in the job's event stream, so it is found
        also where it came before the wait. Where Redis goes away meanwhile, the wait goes on."""
        try:
            async with asyncio.timeout(seconds), aclosing(self.events.listen(job_id)) as events:
                async for event in events:
                    if event.name == "ended":
                        return True
        except TimeoutError:
            pass
        return False

    async def cancel(self, job_id: str) -> None:
        """End a job that waits or runs: from here on it is cancelled, and whoever draws it stops within two steps. A job that has ended
        stays as it is. JobNotFound where there is none."""
        await run_in_threadpool(self._cancel, job_id)

    def _cancel(self, job_id: str) -> None:
        with self._blocking.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(redis_keys.job(job_id))
                    record = self._known(job_id, pipe.hgetall(redis_keys.job(job_id)))
                    if record.status in ENDED:
                        return
                    pipe.multi()
                    pipe.lrem(redis_keys.QUEUE_LIST, 1, job_id)
                    if record.status == "queued":
                        pipe.delete(
                            RQJob.key_for(job_id)
                        )  # a worker that has just taken its id finds nothing to do
                    finish_job(pipe, job_id, record, "cancelled", self.settings.result_ttl_s)
                    pipe.publish(redis_keys.CANCELLED, job_id)
                    pipe.execute()
                    return
                except redis.WatchError:
                    pipe.reset()  # it began or ended in between: look again

    async def workers_alive(self) -> int:
        """How many workers have given a sign of life lately."""
        return len(await beats(self.redis))


def _no_image(job_id: str, record: Record, index: int) -> ImageNotFound:
    return ImageNotFound(
        f"Job {job_id} is {record.status} and has {len(record.images)} images; there is none at {index}.",
    )
