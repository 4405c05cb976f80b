"""How a job ends in Redis, whoever ends it: the worker that drew it, or the service where it was cancelled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from contracts import redis_keys
from contracts.jobs import Record, now, written
from contracts.webhooks import schedule_webhook

Ended = Literal["succeeded", "failed", "cancelled"]
# Why a job failed: the request can never work; the content check stopped it; some of its rows failed; it took too long; its worker
# failed at it, or died.
Reason = Literal["invalid", "content", "rows", "timeout", "error", "died"]
EVENTS_KEPT = 1000


def finish_job(
    pipe: Any,
    job_id: str,
    record: Record,
    status: Ended,
    ttl: int,
    fields: Mapping[str, str] | None = None,
    reason: Reason | None = None,
) -> None:
    """Queue on a pipeline all that changes when a job ends: its record (with `fields` besides), which from now on lives `ttl`
    seconds and its Idempotency-Key with it, the images that came with it, the count of outcomes, the last event, and its webhook.
    `record`: as it was before; `reason`: of one that failed."""
    ended = now()
    pipe.hset(
        redis_keys.job(job_id),
        mapping={**(fields or {}), **written(status=status, finished_at=ended)},
    )
    pipe.expire(redis_keys.job(job_id), ttl)
    if record.idempotency:
        pipe.expire(redis_keys.idempotency(record.idempotency), ttl)
    for name in record.inputs:
        pipe.delete(redis_keys.input_image(job_id, name))
    pipe.hincrby(redis_keys.OUTCOMES, redis_keys.outcome(record.operation, status, reason))
    publish_event(pipe, job_id, "ended", {"status": status}, ttl)
    schedule_webhook(pipe, job_id, record.webhook, status, ended.timestamp())


def publish_event(pipe: Any, job_id: str, event: str, data: Mapping[str, Any], ttl: int) -> None:
    """Queue an event of the job on a pipeline."""
    stream = redis_keys.events(job_id)
    pipe.xadd(
        stream, {"event": event, "data": json.dumps(data)}, maxlen=EVENTS_KEPT, approximate=True
    )
    pipe.expire(stream, ttl)
