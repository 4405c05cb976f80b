"""What is told of a job, and how its record in Redis is read.

The record is a hash of strings: plain text for `operation`, `status` and times, JSON for the rest. The service
writes it when it accepts the job, the worker from then on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from contracts.fields import Animation
from contracts.webhooks import Webhook

JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]
FailureKind = Literal["invalid", "content", "internal"]
ENDED: tuple[JobStatus, ...] = ("succeeded", "failed", "cancelled")


class Progress(BaseModel):
    """How far a job's slowest image is."""

    stage: str = Field(
        description="What is at work: text, image, prior, ar_prior, inversion, decoder, upsampler_256 or upsampler_1024."
    )
    step: int = Field(description="Steps done in this stage.")
    steps: int = Field(description="Steps of this stage.")
    fraction: float = Field(ge=0, le=1, description="Share of the whole job's work that is done.")
    eta_seconds: float | None = Field(
        None, description="Seconds to the job's end, from what this worker's stages took lately."
    )


class Preview(BaseModel):
    """An image as far as it is."""

    index: int = Field(description="Which of the job's images.")
    image: str = Field(
        description="The decoder's or upsampler's present estimate of it, as a data URL."
    )


class WorkerHeartbeat(BaseModel):
    """A worker's sign of life."""

    pid: int
    slots: int = Field(description="How many jobs it runs at once.")
    checkpoint: str = Field("", description="Name of the checkpoint that it draws with.")


class ImageInfo(BaseModel):
    """One drawn image, as the worker records it."""

    seed: int = Field(description="The seed that draws it again.")
    width: int
    height: int


class Image(ImageInfo):
    """One drawn image and where it is."""

    url: str


class AnimatedImage(BaseModel):
    """Frames as one image, and where it is."""

    format: Animation
    url: str


class JobError(BaseModel):
    """Why a job failed. `kind` is "invalid" where the request can never work, "content" where the content check stopped it, "internal"
    where the drawing failed."""

    kind: FailureKind
    title: str
    detail: str


class Links(BaseModel):
    """Where to go from here."""

    self: str
    events: str


class Job(BaseModel):
    """A request on its way to images."""

    id: str
    operation: str
    status: JobStatus
    priority: int = Field(description="Waiting jobs run in this order, highest first.")
    progress: Progress | None = Field(description="Null until the job runs.")
    queue_position: int | None = Field(description="Jobs before this one; null once it runs.")
    eta_seconds: float | None = Field(
        description="Seconds to its end, as estimated; null where nothing was measured, and once it ended."
    )
    parameters: dict[str, Any] = Field(
        description="The request; once the job runs, everything that was left open too."
    )
    warnings: list[str] = Field(
        description="What was not done as asked, such as a prompt that was cut."
    )
    images: list[Image]
    animation: AnimatedImage | None = Field(
        description="The frames as one animated image, where it was asked for."
    )
    result: dict[str, Any] | None = Field(
        description="What was found beside images: a probe's labels, an embedding."
    )
    error: JobError | None
    request_id: str | None = Field(
        description="X-Request-ID of the request that made it, as it stands in the logs."
    )
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    links: Links


class Record(BaseModel):
    """A job as it lies in Redis."""

    operation: str
    status: JobStatus
    request: dict[str, Any]
    priority: int = 0
    parameters: dict[str, Any] = {}
    warnings: list[str] = []
    progress: Progress | None = None
    inputs: list[str] = []  # names of the images that came with the request
    idempotency: str | None = None  # hash of the Idempotency-Key, which goes when the job goes
    webhook: Webhook | None = None
    owner: str | None = None  # id of the API key whose job it is
    link: str | None = None  # opens an owned job's images to whoever has their URL
    trace: dict[str, str] = {}  # where its trace goes on from, as W3C's traceparent
    images: list[ImageInfo] = []
    animation: Animation | None = None
    result: dict[str, Any] | None = None
    error: JobError | None = None
    request_id: str | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None


_TEXT = ("operation", "status", "created_at", "started_at", "finished_at")


def read_record(fields: Mapping[bytes, bytes]) -> Record:
    """A job's hash, as Redis gives it, as a record."""
    return record_of({key.decode(): value.decode() for key, value in fields.items()})


def record_of(fields: Mapping[str, str]) -> Record:
    """The same, decoded."""
    return Record.model_validate(
        {key: value if key in _TEXT else json.loads(value) for key, value in fields.items()}
    )


def written(**fields: Any) -> dict[str, str]:
    """Some of a record's fields as they go into the hash."""
    return {
        key: _text(value) if key in _TEXT else json.dumps(value) for key, value in fields.items()
    }


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)
