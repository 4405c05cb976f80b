"""Answers with a job's pictures: from Redis, or from the object store without holding them in memory."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from contracts import keys
from service.jobs import Jobs
from service.problems import ProblemError


async def image(request: Request, jobs: Jobs, job_id: str, index: int) -> Response:
    """A picture. ProblemError 404 where there is none (yet, or any more)."""
    await jobs.with_image(job_id, index)
    return await _answer(request, jobs, f"{job_id}-{index}", "image/png", keys.stored_image(job_id, index), keys.image(job_id, index))


async def animation(request: Request, jobs: Jobs, job_id: str) -> Response:
    """The animation. ProblemError 404 where there is none (yet, or any more)."""
    kind = await jobs.with_animation(job_id)
    return await _answer(request, jobs, f"{job_id}-{kind}", f"image/{kind}", keys.stored_animation(job_id, kind), keys.animation(job_id))


async def _answer(request: Request, jobs: Jobs, tag: str, media: str, stored_name: str, key: str) -> Response:
    # What a job made never changes, so its name is tag enough.
    headers = {"ETag": f'"{tag}"', "Cache-Control": "private, max-age=3600, immutable"}
    if _has(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    # Redis first also where there is a store: what was made before there was one is there still.
    if content := await jobs.redis.get(key):
        return Response(bytes(content), media_type=media, headers=headers)
    if jobs.store is not None and (stored := await jobs.store.open(stored_name)):
        return StreamingResponse(stored.chunks, media_type=media, headers=headers | {"Content-Length": str(stored.size)})
    raise ProblemError(404, "The job is there, and what it made is no longer. Send its request again.")


def _has(request: Request, tag: str) -> bool:
    """True where the client has it already (RFC 9110, section 13.1.2)."""
    known = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    return tag in known or known == ["*"]
