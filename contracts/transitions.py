"""How a job ends in Redis, by the worker that ran it or by the service that cancels it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from contracts import redis_keys
from contracts.jobs import JobRecord, encode_fields
from contracts.webhooks import schedule_webhook

EndStatus = Literal["succeeded", "failed", "cancelled"]
# Why a job failed: the request can never succeed; the content filter stopped it; some of its rows
# failed; it took too long; its worker raised an error, or crashed on every attempt.
Reason = Literal["invalid", "content", "rows", "timeout", "error", "crashed"]
MAX_EVENTS = 1000


def finish_job(
    pipe: Any,
    record: JobRecord,
    status: EndStatus,
    ttl_s: int,
    fields: Mapping[str, str] | None = None,
    reason: Reason | None = None,
    *,
    finished_at: datetime,
) -> None:
    """Queue on a pipeline everything that changes when a job ends.

    The record gets its last fields and expires, as does its Idempotency-Key. Input images are
    deleted, the outcome is counted, the last event published, the webhook scheduled.

    record: the job before it ends.
    ttl_s: seconds until an ended job is deleted.
    fields: more fields of the record, from `contracts.jobs.encode_fields`.
    reason: why it failed; None if it did not.
    finished_at: the present time by Redis's clock.
    """
    spec = record.spec
    key = redis_keys.job(record.id)
    end = encode_fields(status=status, finished_at=finished_at)
    pipe.hset(key, mapping={**(fields or {}), **end})
    pipe.expire(key, ttl_s)
    if spec.idempotency:
        pipe.expire(redis_keys.idempotency(spec.idempotency), ttl_s)
    if spec.inputs:
        pipe.delete(*(redis_keys.input_image(record.id, name) for name in spec.inputs))
    pipe.hincrby(redis_keys.OUTCOMES, redis_keys.outcome(spec.operation, status, reason))
    publish_event(pipe, record.id, "ended", {"status": status}, ttl_s)
    schedule_webhook(pipe, record.id, spec.webhook, spec.owner, status, finished_at.timestamp())


def publish_event(pipe: Any, job_id: str, event: str, data: Mapping[str, Any], ttl_s: int) -> None:
    """Queue an event of a job on a pipeline.

    event: progress, preview or ended.
    ttl_s: seconds until the job's events are deleted, counted from the last one.
    """
    stream = redis_keys.events(job_id)
    fields = {"event": event, "data": json.dumps(data)}
    pipe.xadd(stream, fields, maxlen=MAX_EVENTS, approximate=True)
    pipe.expire(stream, ttl_s)
