"""`/jobs/{job_id}/images` and `/animation`: what a job generated.

Images come from Redis, or as a stream from the object store.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse

from contracts.fields import MAX_FRAMES
from contracts.provenance import Provenance, read_provenance
from service.api.openapi import ANIMATION_CONTENT, NOT_MODIFIED, PNG_CONTENT
from service.api.problems import responses
from service.dependencies import JobDep, ServicesDep
from service.errors import ImageNotFound
from service.jobs.images import animation_format, convert_image, image_info
from service.jobs.result_store import ResultStream

# An image never changes.
CACHE_CONTROL = "private, max-age=3600, immutable"
ImageIndex = Annotated[int, Path(ge=0, lt=MAX_FRAMES)]
# The middleware reads it; the parameter documents it.
Link = Annotated[
    str | None,
    Query(
        description="Token of the image's URL, which opens it without an API key.",
        max_length=100,
    ),
]
router = APIRouter()


@router.get(
    "/jobs/{job_id}/images/{index}.png",
    response_class=Response,
    summary="Get an image",
    responses={
        200: {"content": PNG_CONTENT, "description": "The image, with its provenance."},
        304: NOT_MODIFIED,
        **responses(404, 422, 503),
    },
)
async def get_image(
    request: Request,
    job: JobDep,
    services: ServicesDep,
    index: ImageIndex,
    size: Annotated[
        int | None, Query(ge=16, le=1024, description="Width to reduce larger images to.")
    ] = None,
    link: Link = None,
) -> Response:
    """Return a PNG. Its text chunk `unclip` holds everything needed to generate it again."""
    record = job.record
    info = image_info(record, index)
    if size is None or info.width <= size:
        headers = _headers(f"{record.id}-{index}")
        if _etag_matches(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        return _send(await services.images.open_image(record, index), "image/png", headers)
    headers = _headers(f"{record.id}-{index}-{size}")
    if _etag_matches(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    png = await services.images.read(record, index)
    content = await run_in_threadpool(convert_image, png, size)
    return Response(content, media_type="image/png", headers=headers)


@router.get(
    "/jobs/{job_id}/images/{index}.json",
    summary="Get the provenance of an image",
    responses=responses(404, 422, 503),
)
async def get_provenance(job: JobDep, services: ServicesDep, index: ImageIndex) -> Provenance:
    """Return the image's text chunk `unclip`: parameters, digests of inputs, versions."""
    png = await services.images.read(job.record, index)
    try:
        return read_provenance(png)
    # A worker of another version generated it.
    except ValueError as error:
        raise ImageNotFound(f"The image has no readable provenance: {error}") from error


@router.get(
    "/jobs/{job_id}/animation",
    response_class=Response,
    summary="Get the frames as one animated image",
    responses={
        200: {"content": ANIMATION_CONTENT, "description": "The animation, if it was requested."},
        304: NOT_MODIFIED,
        **responses(404, 422, 503),
    },
)
async def get_animation(
    request: Request, job: JobDep, services: ServicesDep, link: Link = None
) -> Response:
    """Return an animated WebP or APNG that plays forwards and backwards."""
    kind = animation_format(job.record)
    headers = _headers(f"{job.record.id}-{kind}")
    if _etag_matches(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return _send(await services.images.open_animation(job.record), f"image/{kind}", headers)


def _send(content: bytes | ResultStream, media: str, headers: dict[str, str]) -> Response:
    if isinstance(content, bytes):
        return Response(content, media_type=media, headers=headers)
    headers["Content-Length"] = str(content.size)
    return StreamingResponse(content.chunks, media_type=media, headers=headers)


def _headers(tag: str) -> dict[str, str]:
    return {"ETag": f'"{tag}"', "Cache-Control": CACHE_CONTROL}


def _etag_matches(request: Request, tag: str) -> bool:
    """Return whether the client has this version (RFC 9110, section 13.1.2)."""
    header = request.headers.get("if-none-match", "")
    tags = [each.strip().removeprefix("W/") for each in header.split(",")]
    return tag in tags or tags == ["*"]
