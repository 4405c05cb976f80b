"""Jobs as the service leaves them in Redis, and a job runner around a real engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from contracts import redis_keys
from contracts.fields import IMAGE_FIELDS
from contracts.jobs import JobRecord, JobSpec, JobStatus, now
from contracts.operations import OPERATIONS
from models import UnCLIP
from worker.engine.core import Engine
from worker.engine.memory import batch_limits
from worker.jobs.cancellation import CancellationListener
from worker.jobs.content_filter import ContentFilter
from worker.jobs.record import JobRepository
from worker.jobs.runner import JobRunner

TTL_S = 100


def store_job(
    client: redis.Redis,
    request: dict[str, Any],
    *,
    job_id: str = "j",
    operation: str = "generate",
    status: JobStatus = "queued",
    **images: bytes,
) -> JobRepository:
    """Write the record and the input images of a new job."""
    names = {name: name for name in images if name in IMAGE_FIELDS}
    spec = JobSpec(
        operation=operation,
        request=OPERATIONS[operation].model_validate(request | names),
        inputs=list(images),
        created_at=now(),
    )
    client.hset(redis_keys.job(job_id), mapping=JobRecord(job_id, spec, status).to_hash())
    for name, content in images.items():
        client.set(redis_keys.input_image(job_id, name), content)
    return JobRepository(client, job_id, TTL_S)


def read_job(client: redis.Redis, job_id: str = "j") -> JobRecord:
    """Read the record of a job that exists."""
    record = JobRepository(client, job_id, TTL_S).read()
    assert record is not None
    return record


@contextmanager
def running(
    client: redis.Redis, pipeline: UnCLIP, content_filter: ContentFilter | None = None
) -> Iterator[JobRunner]:
    """Start an engine and a listener for cancellations, and return the runner that uses them."""
    engine = Engine(pipeline, batch_limits(8))
    engine.start()
    cancellations = CancellationListener(client, engine)
    cancellations.start()
    yield JobRunner(pipeline, engine, client, cancellations, TTL_S, content_filter=content_filter)
    cancellations.stop()
    engine.stop()
