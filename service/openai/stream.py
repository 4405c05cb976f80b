"""Calls of OpenAI's that wait for their job: to its end, or with its images as they become."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import anyio
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from redis.exceptions import RedisError

from contracts.jobs import ENDED, Job
from service.api.images import formed
from service.api.problems import status_of
from service.errors import ServiceError
from service.jobs.events import START, Event, paused
from service.jobs.repository import Jobs
from service.openai.errors import OpenAIError, of_problem
from service.openai.schemas import ImagesCall, OutputFormat

PAUSE_S = 2.0  # so long after a client left, at most, its waiting job is cancelled
WORKERLESS_S = 60.0  # a worker that is started anew is back by then
# Nothing is counted in tokens here, and the clients' types want numbers.
NO_USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


@dataclass(frozen=True)
class Form:
    """How a call wants its images: `side` in pixels, None for as they are drawn."""

    side: int | None
    output_format: OutputFormat
    quality: int
    by_url: bool

    @classmethod
    def of(cls, asked: ImagesCall) -> Form:
        """What a call asks for. The GPT image models, which alone have an output_format, always answer with the images themselves."""
        output_format = getattr(asked, "output_format", None)
        quality = getattr(asked, "output_compression", None)
        by_url = (asked.response_format or ("b64_json" if output_format else "url")) == "url"
        return cls(asked.side, output_format or "png", 100 if quality is None else quality, by_url)

    async def encoded(self, content: bytes) -> str:
        """An image's file as base64 of the one that is wanted."""
        return base64.b64encode(
            await run_in_threadpool(formed, content, self.side, self.output_format, self.quality)
        ).decode()


async def follow(
    request: Request, jobs: Jobs, job_id: str, *, previews: bool = False
) -> AsyncGenerator[Event | None, None]:
    """The job's events to its end, and None wherever nothing happened for a while. Only this client knows of the job, so where it
    goes away, or stops listening, the job is cancelled. OpenAIError 503 where no worker is alive for long."""
    ended = False
    last = START
    alive = time.monotonic()
    try:
        while not ended:
            async with aclosing(
                paused(jobs.events.listen(job_id, last, previews=previews), PAUSE_S)
            ) as events:
                async for event in events:
                    if await request.is_disconnected():
                        return
                    if event is not None or await _worker_alive(jobs):
                        alive = time.monotonic()
                    elif time.monotonic() - alive > WORKERLESS_S:
                        detail = f"No worker has been alive for {WORKERLESS_S:.0f} seconds, so the call is given up. Try again later."
                        raise OpenAIError(503, detail, headers={"Retry-After": "30"})
                    last = (event and event.id) or last
                    yield event
            ended = (await jobs.find(job_id, "")).status in ENDED
    finally:
        if not ended:
            with anyio.CancelScope(shield=True):
                await jobs.cancel(job_id)


async def _worker_alive(jobs: Jobs) -> bool:
    """False only where it is known."""
    try:
        return await jobs.workers_alive() > 0
    except RedisError:
        return True


async def succeeded(jobs: Jobs, job_id: str, base_url: str, asked: ImagesCall) -> Job:
    """The ended job. OpenAIError where it has no images, and why."""
    job = await jobs.find(job_id, base_url)
    if job.error is None and job.status == "succeeded":
        return job
    # The service has tried again what is worth it: a client that did would only wait once more.
    headers = {"Location": f"{base_url}/jobs/{job_id}", "x-should-retry": "false"}
    if job.error is None:
        raise OpenAIError(
            409,
            f"Job {job_id} was cancelled before it had an image.",
            code="job_cancelled",
            headers=headers,
        )
    if job.error.kind == "internal":
        raise OpenAIError(500, f"{job.error.title}: {job.error.detail}.", headers=headers)
    if job.error.kind == "content":
        raise OpenAIError(
            400,
            f"{job.error.title}: {job.error.detail}.",
            code="content_policy_violation",
            headers=headers,
        )
    size = job.error.detail.startswith("size ")
    why = f"{job.error.detail}" + (
        "; 512x512 is drawn at 1024 and reduced" if size and asked.side == 512 else ""
    )
    raise OpenAIError(400, f"{why}.", "size" if size else None, "invalid_value", headers)


async def server_sent(
    heard: AsyncGenerator[Event | None, None],
    jobs: Jobs,
    job_id: str,
    kind: str,
    asked: Any,
    base_url: str,
) -> AsyncIterator[bytes]:
    """`kind`.partial_image as the job goes, then `kind`.completed, or `error`; `kind` is image_generation or image_edit."""
    form = Form.of(asked)
    wanted = asked.partial_images or 0
    shown = 0
    quality = asked.quality if asked.quality not in (None, "standard", "hd") else "auto"
    about = {"background": "opaque", "output_format": form.output_format, "quality": quality}

    def event(name: str, size: str, b64_json: str, **more: Any) -> bytes:
        data = {
            "type": f"{kind}.{name}",
            "b64_json": b64_json,
            "created_at": int(time.time()),
            "size": size,
            **about,
            **more,
        }
        return format_sse_event(data_str=json.dumps(data), event=f"{kind}.{name}")

    try:
        async with aclosing(heard):
            async for one in heard:
                if one is None:
                    yield KEEPALIVE_COMMENT
                elif one.name == "preview" and shown < wanted:
                    preview = json.loads(one.data)
                    # Spread over the job: of two the first from a third of it on, the second from two thirds.
                    if preview["fraction"] >= (shown + 1) / (wanted + 1):
                        content = base64.b64decode(preview["image"].partition(",")[2])
                        encoded = await form.encoded(content)
                        yield event(
                            "partial_image",
                            asked.size or "1024x1024",
                            encoded,
                            partial_image_index=shown,
                        )
                        shown += 1
        (image,) = (await succeeded(jobs, job_id, base_url, asked)).images
        encoded = await form.encoded(await jobs.read_image(job_id, 0))
        side = form.side or image.width
        yield event("completed", f"{side}x{side}", encoded, usage=NO_USAGE)
    except OpenAIError as error:
        yield _error(error)
    except ServiceError as error:
        yield _error(of_problem(status_of(error), error.detail))
    except RedisError:
        yield _error(
            OpenAIError(
                503, "Redis does not answer, so the job cannot be told of. Try again shortly."
            )
        )


def _error(error: OpenAIError) -> bytes:
    return format_sse_event(data_str=json.dumps(error.body), event="error")
