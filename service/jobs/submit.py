"""Submit jobs: record and enqueue them in one transaction."""

from __future__ import annotations

import hashlib
import json
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
from fastapi.concurrency import run_in_threadpool
from rq import Retry

from contracts import redis_keys
from contracts.fields import IMAGE_FIELDS, MAX_IMAGES, MAX_SEED, QueueFields
from contracts.jobs import JobRecord, JobSpec
from contracts.webhooks import Webhook
from infra.logging import current_request_id
from infra.queue import PriorityQueue
from service.errors import InvalidRequest, QueueFull
from service.jobs import index, quota
from service.jobs.estimate import (
    JobSnapshot,
    parse_place,
    parse_snapshot,
    query_place,
    retry_after_queue_full_s,
)
from service.jobs.quota import Owner
from service.jobs.repository import JobRepository, new_link
from service.jobs.tracing import enqueue_span
from service.settings import Settings

# RQ's own record of a job that succeeded serves no reader.
RQ_RESULT_TTL_S = 60


@dataclass(frozen=True)
class JobRequest:
    """A validated request, ready to become a job.

    `fields`: with names in place of images. `images`: normalized PNG files by name.
    """

    operation: str
    fields: QueueFields
    images: dict[str, bytes] = field(default_factory=dict)
    webhook: Webhook | None = None

    def fingerprint(self) -> str:
        """Return a hash that is equal for equal requests: SHA-256 in hex.

        It is computed before a seed is chosen, so a repeat without a seed has the same one.
        """
        content: list[Any] = [
            self.operation,
            self.fields.model_dump(exclude={*IMAGE_FIELDS, "webhook", "webhook_events"}),
            {name: hashlib.sha256(png).hexdigest() for name, png in self.images.items()},
        ]
        if self.webhook is not None:
            content.append(self.webhook.model_dump(exclude={"base_url"}))
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True)
class SubmittedJob:
    """A job that is queued.

    `snapshot`: the job as it was accepted; None if the same Idempotency-Key started it earlier.
    """

    job_id: str
    snapshot: JobSnapshot | None


class JobSubmitter:
    """Turn requests into queued jobs."""

    def __init__(
        self,
        settings: Settings,
        jobs: JobRepository,
        on_accepted: Callable[[str], None] = lambda operation: None,
    ) -> None:
        """Use the connections of `jobs`.

        `on_accepted`: called with the operation of each new job.
        """
        self.settings = settings
        self.jobs = jobs
        self.redis = jobs.redis
        self.on_accepted = on_accepted
        self._queue = PriorityQueue(
            redis_keys.QUEUE,
            connection=jobs.blocking_redis,
            serializer="json",
            default_timeout=settings.job_timeout_s,
        )
        retries = settings.job_retries
        self._retry = Retry(max=retries, enqueue_at_front=True) if retries else None

    async def submit(
        self, request: JobRequest, idempotency_key: str | None, owner: Owner | None
    ) -> SubmittedJob:
        """Record and enqueue a job in one transaction: it exists wholly or not at all.

        The transaction watches the job's own record. If its reply is lost, the record shows
        whether the job is accepted.

        `owner`: the API key that the job belongs to; None if keys are not required.
        Raises QueueFull, QuotaExceeded, or InvalidRequest if the Idempotency-Key was used for
        another request.
        """
        job_id = uuid.uuid4().hex
        idempotency = _Idempotency.of(request, idempotency_key, owner)
        watched = [redis_keys.job(job_id)]
        if idempotency:
            watched.append(idempotency.key)
        if owner is not None:
            watched.append(redis_keys.active_jobs(owner.id))
        is_retry = False
        async with self.redis.pipeline() as pipe:
            while True:
                try:
                    await pipe.watch(*watched)
                    # The id is new, so a record means that an earlier attempt was executed.
                    if is_retry and (fields := await pipe.hgetall(redis_keys.job(job_id))):
                        place = await query_place(pipe, job_id)
                        return self._accepted(
                            request, job_id, parse_snapshot(job_id, fields, place)
                        )
                    is_retry = True
                    if idempotency and (earlier := await idempotency.find_job(pipe)):
                        return SubmittedJob(earlier, None)
                    created_at = await self._check_queue()
                    active = await quota.check_quota(self.jobs, owner) if owner else None
                    pipe.multi()
                    if idempotency:
                        idempotency.register(pipe, job_id)
                    if owner:
                        quota.register_job(pipe, owner, job_id, active)
                    accepted = await self._enqueue(
                        pipe, job_id, request, idempotency, owner, created_at
                    )
                except redis.WatchError:
                    # The reply was lost, or another request with the same Idempotency-Key or
                    # API key was faster.
                    continue
                return self._accepted(request, job_id, accepted)

    def _accepted(
        self, request: JobRequest, job_id: str, snapshot: JobSnapshot | None
    ) -> SubmittedJob:
        self.on_accepted(request.operation)
        return SubmittedJob(job_id, snapshot)

    async def _check_queue(self) -> datetime:
        """Return the time by Redis's clock. Raises QueueFull."""
        async with self.redis.pipeline(transaction=False) as pipe:
            pipe.llen(redis_keys.QUEUE_LIST).time()
            waiting, (seconds, microseconds) = await pipe.execute()
        limit = self.settings.max_queued_jobs
        if waiting >= limit:
            retry_after_s = await run_in_threadpool(
                retry_after_queue_full_s, self.jobs.blocking_redis, waiting - limit + 1
            )
            raise QueueFull(
                f"The queue is full ({waiting} of {limit} jobs waiting). Retry later.",
                retry_after_s=retry_after_s,
            )
        return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=microseconds)

    async def _enqueue(
        self,
        pipe: Any,
        job_id: str,
        request: JobRequest,
        idempotency: _Idempotency | None,
        owner: Owner | None,
        created_at: datetime,
    ) -> JobSnapshot:
        """Queue all writes of a new job on the transaction and execute it."""
        with enqueue_span(request.operation, job_id) as trace:
            spec = JobSpec(
                operation=request.operation,
                request=_with_seed(request.fields),
                inputs=list(request.images),
                webhook=request.webhook,
                owner=owner.id if owner else None,
                link=new_link() if owner else None,
                idempotency=idempotency.key_hash if idempotency else None,
                trace=trace,
                request_id=current_request_id(),
                created_at=created_at,
            )
            record = JobRecord(job_id, spec)
            pipe.hset(redis_keys.job(job_id), mapping=record.to_hash())
            index.add(pipe, record)
            # Input images stay until the job ends.
            for name, png in request.images.items():
                pipe.set(redis_keys.input_image(job_id, name), png)
            # RQ only adds commands to the pipeline, so it works with an asyncio one.
            self._queue.enqueue_call(
                redis_keys.TASK,
                args=(job_id,),
                job_id=job_id,
                # RQ would log the arguments otherwise.
                description=f"{request.operation} {job_id}",
                timeout=self.settings.job_timeout_s,
                result_ttl=RQ_RESULT_TTL_S,
                failure_ttl=self.settings.result_ttl_s,
                retry=self._retry,
                pipeline=pipe,
            )
            query_place(pipe, job_id)
            return JobSnapshot(record, parse_place((await pipe.execute())[-1], record))


@dataclass(frozen=True)
class _Idempotency:
    """The Idempotency-Key of a request."""

    key_hash: str
    fingerprint: str

    @classmethod
    def of(
        cls, request: JobRequest, idempotency_key: str | None, owner: Owner | None
    ) -> _Idempotency | None:
        """Hash a key, so that keys of different owners never meet; None without a key."""
        if not idempotency_key:
            return None
        text = f"{owner.id if owner else ''} {idempotency_key}"
        return cls(hashlib.sha256(text.encode()).hexdigest(), request.fingerprint())

    @property
    def key(self) -> str:
        """Redis key that holds the job of this Idempotency-Key."""
        return redis_keys.idempotency(self.key_hash)

    async def find_job(self, pipe: Any) -> str | None:
        """Return the id of the job that this key started, if the job still exists.

        Raises InvalidRequest if its request was another one.
        """
        text = await pipe.get(self.key)
        if text is None:
            return None
        earlier = json.loads(text)
        if not await pipe.exists(redis_keys.job(earlier["id"])):
            return None
        if earlier["fingerprint"] != self.fingerprint:
            raise InvalidRequest(
                "This Idempotency-Key was used for another request. Use a new key for a new "
                "request."
            )
        return str(earlier["id"])

    def register(self, pipe: Any, job_id: str) -> None:
        """Store the job of this key. It expires with its job, by `finish_job`."""
        pipe.set(self.key, json.dumps({"id": job_id, "fingerprint": self.fingerprint}))


def _with_seed(fields: QueueFields) -> QueueFields:
    """Return the fields with a random seed if they need one and have none."""
    if getattr(fields, "seed", 0) is not None:
        return fields
    return fields.model_copy(update={"seed": secrets.randbelow(MAX_SEED + 1 - MAX_IMAGES)})
