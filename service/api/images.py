"""Answers with a job's images: from Redis, or from the object store without holding them in memory."""

from __future__ import annotations

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse

from contracts import redis_keys
from contracts.provenance import Provenance, read_provenance
from service.errors import ImageNotFound
from service.jobs.images import convert_image
from service.jobs.repository import Jobs


async def image(
    request: Request, jobs: Jobs, job_id: str, index: int, size: int | None = None
) -> Response:
    """An image, at most `size` wide. NotFound where there is none (yet, or any more)."""
    info = await jobs.image_info(job_id, index)
    if size is None or info.width <= size:
        return await _answer(
            request,
            jobs,
            f"{job_id}-{index}",
            "image/png",
            redis_keys.stored_image(job_id, index),
            redis_keys.image(job_id, index),
        )
    headers = _headers(f"{job_id}-{index}-{size}")
    if _has(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    content = await run_in_threadpool(convert_image, await jobs.read_image(job_id, index), size)
    return Response(content, media_type="image/png", headers=headers)


async def provenance(jobs: Jobs, job_id: str, index: int) -> Provenance:
    """What an image says of how it was drawn. NotFound where there is no such image (yet, or any more)."""
    try:
        return read_provenance(await jobs.read_image(job_id, index))
    except ValueError as error:  # drawn by a worker of another version
        raise ImageNotFound(f"The image has no readable provenance: {error}") from error


async def animation(request: Request, jobs: Jobs, job_id: str) -> Response:
    """The animation. NotFound where there is none (yet, or any more)."""
    kind = await jobs.animation_format(job_id)
    return await _answer(
        request,
        jobs,
        f"{job_id}-{kind}",
        f"image/{kind}",
        redis_keys.stored_animation(job_id, kind),
        redis_keys.animation(job_id),
    )


async def _answer(
    request: Request, jobs: Jobs, tag: str, media: str, stored_name: str, key: str
) -> Response:
    headers = _headers(tag)
    if _has(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    # Redis first also where there is a store: what was made before there was one is there still.
    if content := await jobs.redis.get(key):
        return Response(bytes(content), media_type=media, headers=headers)
    if jobs.store is not None and (stored := await jobs.store.open(stored_name)):
        return StreamingResponse(
            stored.chunks, media_type=media, headers=headers | {"Content-Length": str(stored.size)}
        )
    raise ImageNotFound("The job exists but its result has expired. Submit the request again.")


def _headers(tag: str) -> dict[str, str]:
    # What a job made never changes, so its name is tag enough.
    return {"ETag": f'"{tag}"', "Cache-Control": "private, max-age=3600, immutable"}


def _has(request: Request, tag: str) -> bool:
    """True where the client has it already (RFC 9110, section 13.1.2)."""
    known = [
        each.strip().removeprefix("W/")
        for each in request.headers.get("if-none-match", "").split(",")
    ]
    return tag in known or known == ["*"]
