"""Jobs as clients see them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from contracts.fields import Animation
from contracts.jobs import ImageInfo, JobError, JobStatus, Progress


class Image(ImageInfo):
    """A generated image."""

    url: str


class AnimatedImage(BaseModel):
    """The frames as one image."""

    format: Animation
    url: str


class Links(BaseModel):
    """Related URLs."""

    self: str
    events: str


class Job(BaseModel):
    """A job."""

    id: str
    operation: str
    status: JobStatus
    priority: int = Field(description="Waiting jobs with the highest priority run first.")
    progress: Progress | None = Field(description="Null until the job runs.")
    queue_position: int | None = Field(
        description="Number of jobs before this one; null once it runs."
    )
    eta_seconds: float | None = Field(
        description=(
            "Estimated seconds to the end; null if nothing was measured yet, or after the end."
        )
    )
    parameters: dict[str, Any] = Field(
        description="Fields of the request; once the job runs, also the defaults that it uses."
    )
    warnings: list[str] = Field(description="Deviations from the request, e.g. a truncated prompt.")
    images: list[Image]
    animation: AnimatedImage | None = Field(
        description="The frames as one animated image, if the request has `animation`."
    )
    result: dict[str, Any] | None = Field(
        description="Results other than images: a probe's labels, an embedding."
    )
    error: JobError | None
    request_id: str | None = Field(
        description="X-Request-ID of the request that created it, as in the logs."
    )
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    links: Links


class ListedJob(BaseModel):
    """A job in a list. The complete job, with its parameters, is at `url`."""

    id: str
    operation: str
    status: JobStatus
    url: str
    prompt: str | None = Field(description="The prompt of the request, if it has one.")
    progress: Progress | None
    images: list[Image]
    animation: AnimatedImage | None
    error: JobError | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class JobList(BaseModel):
    """A page of jobs, newest first."""

    jobs: list[ListedJob]
    next: str | None = Field(
        description=(
            "Cursor of the next page, null after the last. A page may have fewer jobs than "
            "`limit` and still have a next one."
        )
    )
