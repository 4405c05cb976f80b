"""FastAPI dependencies: what routes need of the application and of the request.

They are coroutines, because FastAPI runs any other function in a thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Path, Request

from service.gallery.repository import Gallery
from service.jobs.estimate import JobSnapshot
from service.jobs.images import JobImages
from service.jobs.quota import Owner
from service.jobs.repository import JobRepository
from service.requests.accept import JobAcceptor
from service.security.middleware import current_owner
from service.settings import Settings

JobId = Annotated[str, Path(description="The id of the job.", max_length=100)]


@dataclass(frozen=True)
class Services:
    """The parts of the application that routes use. They are in `app.state.services`."""

    settings: Settings
    jobs: JobRepository
    images: JobImages
    acceptor: JobAcceptor
    gallery: Gallery | None = None

    def base_url(self, request: Request) -> str:
        """Return the URL by which the client reaches the service, without a slash at the end."""
        return str(self.settings.public_url or request.base_url).rstrip("/")


async def get_services(request: Request) -> Services:
    """Return the parts of the application."""
    services: Services = request.app.state.services
    return services


async def get_owner(request: Request) -> Owner | None:
    """Return the owner of the request's jobs, None if keys are not required."""
    return current_owner(request)


ServicesDep = Annotated[Services, Depends(get_services)]
OwnerDep = Annotated[Owner | None, Depends(get_owner)]


async def get_base_url(request: Request, services: ServicesDep) -> str:
    """Return the base of all links in the response."""
    return services.base_url(request)


BaseUrlDep = Annotated[str, Depends(get_base_url)]


async def get_job(job_id: JobId, services: ServicesDep, owner: OwnerDep) -> JobSnapshot:
    """Return the job in the path, if it belongs to the request's API key. Raises JobNotFound.

    A request whose URL carries the job's link has no owner: the middleware has checked the link.
    """
    return await services.jobs.get_owned(job_id, owner.id if owner else None)


JobDep = Annotated[JobSnapshot, Depends(get_job)]
