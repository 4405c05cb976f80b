"""`POST` routes of the seven operations."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response
from redis.exceptions import RedisError

from contracts.jobs import ENDED
from contracts.operations import num_images
from service.api.openapi import PNG_CONTENT, request_body
from service.api.present import present
from service.api.problems import problem, responses
from service.api.schemas import Job
from service.dependencies import BaseUrlDep, OwnerDep, Services, ServicesDep
from service.errors import NotAcceptable, RedisDown
from service.jobs.submit import SubmittedJob
from service.requests.negotiation import wait_seconds, wants_png
from service.requests.parse import parse_request

# Path, operation, summary.
ROUTES = (
    ("/generate", "generate", "Generate images from a prompt"),
    ("/variations", "variations", "Create variations of an image"),
    ("/interpolate", "interpolate", "Interpolate between images or prompts"),
    ("/text-diff", "text-diff", "Change an image by the difference of two prompts"),
    ("/edits", "edit", "Edit a part of an image"),
    ("/probe", "probe", "Probe an image embedding"),
    ("/embeddings", "embeddings", "Embed a prompt or an image"),
)
# All may have images: those of /generate are parts of a mixture.
UPLOAD_PATHS = [path for path, _, _ in ROUTES]

Prefer = Annotated[
    list[str] | None,
    Header(description="wait=SECONDS delays the response until the job has ended (RFC 7240)."),
]
Accept = Annotated[
    list[str] | None,
    Header(description="image/png, with a wait and one image: the PNG itself."),
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="A repeated request with the same key returns the first job.",
    ),
]

router = APIRouter()


async def submit_job(
    request: Request,
    services: ServicesDep,
    owner: OwnerDep,
    base_url: BaseUrlDep,
    prefer: Prefer = None,
    accept: Accept = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Accept the job and respond at once, or after the wait that `Prefer` requests."""
    wait_s = wait_seconds(prefer or [], services.settings.max_wait_s)
    as_png = wants_png(accept or [])
    find_image = partial(services.images.find, owner_id=owner.id if owner else None)
    job_request = await parse_request(
        request, request.scope["route"].name, services.settings, base_url, find_image
    )
    count = num_images(job_request.fields)
    if as_png and count != 1:
        raise NotAcceptable(
            f"image/png holds one image and this request generates {count}. "
            "Request one image, or accept application/json."
        )
    job = await services.acceptor.accept(job_request, idempotency_key, owner)
    return await _respond(services, job, base_url, wait_s, as_png)


async def _respond(
    services: Services, job: SubmittedJob, base_url: str, wait_s: float | None, as_png: bool
) -> Response:
    """Respond with the accepted job, or after the wait with the job or its image."""
    headers = {"Location": f"{base_url}/jobs/{job.job_id}", "Vary": "Accept, Prefer"}
    if wait_s is not None:
        headers["Preference-Applied"] = f"wait={wait_s:g}"
    png = None
    try:
        if wait_s is not None:
            await services.jobs.wait(job.job_id, wait_s)
        if wait_s is not None and as_png:
            snapshot, png = await services.images.get_with_image(job.job_id)
        elif wait_s is not None or job.snapshot is None:
            snapshot = await services.jobs.get(job.job_id)
        else:
            snapshot = job.snapshot
    except RedisError as error:
        raise RedisDown(
            "The job is accepted, but Redis is unavailable. Query it at Location shortly.",
            headers=headers,
        ) from error
    record = snapshot.record
    has_ended = wait_s is not None and record.status in ENDED
    if not has_ended or not as_png:
        body = present(snapshot, base_url).model_dump_json()
        return Response(body, 200 if has_ended else 202, headers, "application/json")
    if record.outcome.error is not None:
        status = 500 if record.outcome.error.kind == "internal" else 422
        return problem(status, record.outcome.error.detail, headers=headers)
    if png is None:
        # A cancelled job, or one whose images the content filter dropped.
        png = await services.images.read(record, 0)
    return Response(png, 200, headers, "image/png")


_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Job,
        "content": PNG_CONTENT,
        "description": "The ended job with Prefer: wait; its image with Accept: image/png.",
    },
    202: {"model": Job, "description": "The accepted job. Location is its URL."},
    **responses(400, 406, 413, 415, 422, 429, 503),
}
for path, operation, summary in ROUTES:
    router.add_api_route(
        path,
        submit_job,
        methods=["POST"],
        name=operation,
        operation_id=operation.replace("-", "_"),
        status_code=202,
        summary=summary,
        openapi_extra={"requestBody": request_body(operation)},
        responses=_RESPONSES,
    )
