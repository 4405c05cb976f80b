"""What is told where many jobs are listed."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from contracts.jobs import AnimatedImage, Image, JobError, JobStatus, Progress


class ListedJob(BaseModel):
    """A job in a list: what a list shows. The whole of it, its parameters among it, is at `url`."""

    id: str
    operation: str
    status: JobStatus
    url: str
    prompt: str | None = Field(description="The request's prompt, where it has one.")
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
        description="Cursor of the next page, null after the last. A page may hold fewer jobs than `limit` and still have a next."
    )
