"""`/jobs`: list, read and cancel jobs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from contracts.jobs import JobStatus
from contracts.operations import OPERATIONS
from service.api.present import present, present_listed
from service.api.problems import responses
from service.api.schemas import Job, JobList
from service.dependencies import BaseUrlDep, JobDep, OwnerDep, ServicesDep
from service.errors import InvalidRequest
from service.jobs import index

MAX_QUOTED_CHARACTERS = 80
router = APIRouter()


class JobFilter(BaseModel):
    """Which jobs to list, and how many."""

    model_config = ConfigDict(extra="forbid")

    status: JobStatus | None = Field(None, description="Only jobs with this status.")
    operation: str | None = Field(
        None, description=f"Only jobs of one operation: {', '.join(OPERATIONS)}."
    )
    created_after: AwareDatetime | None = Field(
        None, description="Only jobs created then or later; ISO 8601 with a time zone."
    )
    created_before: AwareDatetime | None = Field(None, description="Only jobs created earlier.")
    limit: int = Field(20, ge=1, le=100, description="Maximum number of jobs in the page.")
    cursor: str | None = Field(
        None,
        min_length=1,
        max_length=500,
        description="`next` of the previous page, with the same filters.",
    )


@router.get(
    "/jobs",
    summary="List jobs, newest first",
    response_model=JobList,
    responses=responses(422, 503),
)
async def list_jobs(
    services: ServicesDep,
    owner: OwnerDep,
    base_url: BaseUrlDep,
    job_filter: Annotated[JobFilter, Query()],
) -> Response:
    """Return a page of jobs; `next` is the cursor of the page after it.

    New jobs do not move the following pages.
    """
    operation = job_filter.operation
    if operation is not None and operation not in OPERATIONS:
        raise InvalidRequest.from_field(
            "operation",
            f"there is no {operation[:MAX_QUOTED_CHARACTERS]!r}; "
            f"use one of {', '.join(OPERATIONS)}",
        )
    page = await index.read_page(
        services.jobs.redis,
        job_filter.limit,
        job_filter.cursor,
        owner=owner.id if owner else None,
        status=job_filter.status,
        operation=operation,
        before=job_filter.created_before,
        after=job_filter.created_after,
    )
    jobs = JobList(
        jobs=[present_listed(record, base_url) for record in page.records], next=page.next
    )
    return Response(jobs.model_dump_json(), media_type="application/json")


@router.get(
    "/jobs/{job_id}",
    response_model=Job,
    summary="Get a job",
    responses=responses(404, 422, 503),
)
async def get_job(job: JobDep, base_url: BaseUrlDep) -> Response:
    """Return a job: its status, progress and parameters, and once it succeeded its images."""
    return Response(present(job, base_url).model_dump_json(), media_type="application/json")


@router.delete(
    "/jobs/{job_id}",
    response_model=Job,
    summary="Cancel a job",
    responses=responses(404, 422, 503),
)
async def cancel_job(job: JobDep, services: ServicesDep, base_url: BaseUrlDep) -> Response:
    """Cancel a waiting or running job, within two steps and without images.

    An ended job does not change; see `status` of the response.
    """
    await services.jobs.cancel(job.record.id)
    cancelled = await services.jobs.get(job.record.id)
    return Response(present(cancelled, base_url).model_dump_json(), media_type="application/json")


@router.delete(
    "/jobs/{job_id}/link",
    response_model=Job,
    summary="Revoke the link of a job's images",
    responses=responses(404, 422, 503),
)
async def revoke_link(job: JobDep, services: ServicesDep, base_url: BaseUrlDep) -> Response:
    """Replace the link: URLs with the old one stop to work. The response has the new ones."""
    await services.jobs.rotate_link(job.record.id)
    changed = await services.jobs.get(job.record.id)
    return Response(present(changed, base_url).model_dump_json(), media_type="application/json")
