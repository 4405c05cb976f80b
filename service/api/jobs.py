"""`GET /jobs`: jobs, newest first, a page at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from contracts.jobs import AnimatedImage, Image, JobStatus, Record
from contracts.operations import OPERATIONS
from service.api.problems import responses
from service.api.schemas import JobList, ListedJob
from service.errors import InvalidRequest
from service.jobs import index
from service.jobs.repository import Jobs


class Wanted(BaseModel):
    """Which jobs, and how many."""

    model_config = ConfigDict(extra="forbid")

    status: JobStatus | None = Field(None, description="Only those that stand so.")
    operation: str | None = Field(
        None, description=f"Only those of one operation: {', '.join(OPERATIONS)}."
    )
    created_after: AwareDatetime | None = Field(
        None, description="Only those created then or later; ISO 8601 with a time zone."
    )
    created_before: AwareDatetime | None = Field(None, description="Only those created earlier.")
    limit: int = Field(20, ge=1, le=100, description="Most jobs of a page.")
    cursor: str | None = Field(
        None,
        min_length=1,
        max_length=500,
        description="`next` of the page before; the filters stay the same.",
    )


def install(
    app: FastAPI,
    jobs: Jobs,
    base_url: Callable[[Request], str],
    owner: Callable[[Request], str | None] = lambda _: None,
) -> None:
    """Add the route. `owner(request)`: whose jobs the request may see; None for all."""

    @app.get(
        "/jobs", summary="Jobs, newest first", response_model=JobList, responses=responses(422, 503)
    )
    async def list_jobs(request: Request, wanted: Annotated[Wanted, Query()]) -> Response:
        """A page of jobs, and in `next` the cursor of the page after it. Jobs that come in meanwhile do not move it."""
        if wanted.operation is not None and wanted.operation not in OPERATIONS:
            raise InvalidRequest.from_field(
                "operation",
                f"there is no {wanted.operation[:80]!r}; use one of {', '.join(OPERATIONS)}",
            )
        page = await index.page(
            jobs.redis,
            wanted.limit,
            wanted.cursor,
            owner=owner(request),
            status=wanted.status,
            operation=wanted.operation,
            before=wanted.created_before,
            after=wanted.created_after,
        )
        base = f"{base_url(request)}/jobs"
        told = JobList(
            jobs=[_listed(job_id, record, f"{base}/{job_id}") for job_id, record in page.jobs],
            next=page.next,
        )
        return Response(told.model_dump_json(), media_type="application/json")


def _listed(job_id: str, record: Record, url: str) -> ListedJob:
    told: dict[str, Any] = record.model_dump(
        include=ListedJob.model_fields.keys() - {"images", "animation", "error", "progress"}
    )
    return ListedJob(
        id=job_id,
        url=url,
        prompt=record.request.get("prompt"),
        progress=record.progress,
        images=[
            Image(url=f"{url}/images/{at}.png", **image.model_dump())
            for at, image in enumerate(record.images)
        ],
        animation=AnimatedImage(format=record.animation, url=f"{url}/animation")
        if record.animation
        else None,
        error=record.error,
        **told,
    )
