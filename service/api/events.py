"""`/jobs/{job_id}/events`: the events of a job."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse

from service.api.openapi import EVENTS_CONTENT
from service.api.problems import responses
from service.dependencies import JobDep, ServicesDep
from service.jobs.events import EVENT_ID, START, to_sse

router = APIRouter()


@router.get(
    "/jobs/{job_id}/events",
    response_class=StreamingResponse,
    summary="Follow a job",
    responses={
        200: {"content": EVENTS_CONTENT, "description": "Server-sent events until the job ends."},
        **responses(404, 422, 503),
    },
)
async def get_events(
    job: JobDep,
    services: ServicesDep,
    previews: Annotated[bool, Query(description="Whether to send previews of the images.")] = True,
    last_event_id: Annotated[
        str, Header(pattern=EVENT_ID, description="Id of the event to continue after.")
    ] = START,
) -> StreamingResponse:
    """Send the events of a job until it ends.

    `queued` has queue_position and eta_seconds, `progress` the progress, `preview` a small image as
    data URL, and `ended`, the last, the job's status. A client that reconnects with
    `Last-Event-ID`, as browsers do, misses nothing.
    """
    events = services.jobs.events.listen(job.record.id, last_event_id, previews=previews)
    return StreamingResponse(
        to_sse(events, services.jobs.events.is_ending),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )
