"""Present jobs: the only place that makes the public shapes of a job."""

from __future__ import annotations

from typing import Any

from contracts.fields import PARAMETERS
from contracts.jobs import JobRecord
from service.api.schemas import AnimatedImage, Image, Job, Links, ListedJob
from service.jobs.estimate import JobSnapshot
from service.jobs.urls import JobUrls


def present(snapshot: JobSnapshot, base_url: str) -> Job:
    """Return a job as clients see it. `base_url`: base of its links."""
    record = snapshot.record
    place = snapshot.place
    spec = record.spec
    urls = JobUrls(base_url, record.id, record.spec.link)
    eta_seconds = place.eta_seconds if record.status == "queued" else None
    if record.status == "running" and record.progress is not None:
        eta_seconds = record.progress.eta_seconds
    return Job(
        id=record.id,
        operation=spec.operation,
        status=record.status,
        priority=spec.request.priority,
        progress=record.progress,
        queue_position=place.position,
        eta_seconds=eta_seconds,
        parameters=_parameters(record),
        warnings=record.outcome.warnings,
        images=_images(record, urls),
        animation=_animation(record, urls),
        result=record.outcome.result,
        error=record.outcome.error,
        request_id=spec.request_id,
        created_at=spec.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        links=Links(self=urls.job, events=urls.events),
    )


def present_listed(record: JobRecord, base_url: str) -> ListedJob:
    """Return a job as lists show it. `base_url`: base of its links."""
    urls = JobUrls(base_url, record.id, record.spec.link)
    return ListedJob(
        id=record.id,
        operation=record.spec.operation,
        status=record.status,
        url=urls.job,
        prompt=getattr(record.spec.request, "prompt", None),
        progress=record.progress,
        images=_images(record, urls),
        animation=_animation(record, urls),
        error=record.outcome.error,
        created_at=record.spec.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
    )


def _parameters(record: JobRecord) -> dict[str, Any]:
    """Return the request's fields without those left out, and the resolved parameters."""
    fields = record.spec.request.to_dict()
    requested = {
        name: value for name, value in fields.items() if value is not None or name in PARAMETERS
    }
    return requested | record.parameters


def _images(record: JobRecord, urls: JobUrls) -> list[Image]:
    return [
        Image(url=urls.image(index), seed=image.seed, width=image.width, height=image.height)
        for index, image in enumerate(record.outcome.images)
    ]


def _animation(record: JobRecord, urls: JobUrls) -> AnimatedImage | None:
    kind = record.outcome.animation
    return AnimatedImage(format=kind, url=urls.animation) if kind else None
