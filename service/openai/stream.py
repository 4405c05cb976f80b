"""OpenAI calls that wait for their job: until it ends, or with its images as they become."""

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

from contracts.jobs import ENDED, JobRecord
from service.dependencies import Services
from service.errors import ServiceError
from service.jobs.events import START, Event, with_pauses
from service.jobs.images import convert_image
from service.jobs.repository import JobRepository
from service.openai.errors import OpenAIError, from_service_error
from service.openai.schemas import ImagesCall, OutputFormat

# Maximum time from a client's disconnection to the cancellation of its waiting job.
POLL_S = 2.0
# A worker that restarts is back by then.
MAX_TIME_WITHOUT_WORKER_S = 60.0
# No tokens are counted here, but the clients' types need numbers.
NO_USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


@dataclass(frozen=True)
class OutputOptions:
    """How a call wants its images.

    width_px: None for the generated width. quality: 0 to 100, of webp and jpeg.
    by_url: as URLs instead of base64.
    """

    width_px: int | None
    output_format: OutputFormat
    quality: int
    by_url: bool

    @classmethod
    def from_call(cls, call: ImagesCall) -> OutputOptions:
        """Return the options of a call."""
        output_format = getattr(call, "output_format", None)
        quality = getattr(call, "output_compression", None)
        # The GPT image models have an output_format and always respond with base64.
        default_form = "b64_json" if output_format else "url"
        return cls(
            call.width_px,
            output_format or "png",
            100 if quality is None else quality,
            (call.response_format or default_form) == "url",
        )

    async def encode(self, content: bytes) -> str:
        """Convert a PNG and return the file as base64."""
        converted = await run_in_threadpool(
            convert_image, content, self.width_px, self.output_format, self.quality
        )
        return base64.b64encode(converted).decode()


async def wait_for_end(
    request: Request, jobs: JobRepository, job_id: str, *, previews: bool = False
) -> AsyncGenerator[Event | None, None]:
    """Yield the job's events until it ends, and None after each `POLL_S` without one.

    Only this client knows the job, so the job is cancelled when the client disconnects or stops
    reading. Raises OpenAIError 503 if no worker is alive for `MAX_TIME_WITHOUT_WORKER_S`.
    """
    is_ended = False
    last_id = START
    alive_at = time.monotonic()
    try:
        while not is_ended:
            listener = jobs.events.listen(job_id, last_id, previews=previews)
            async with aclosing(with_pauses(listener, POLL_S)) as events:
                async for event in events:
                    if await request.is_disconnected():
                        return
                    if event is not None or await _is_worker_alive(jobs):
                        alive_at = time.monotonic()
                    elif time.monotonic() - alive_at > MAX_TIME_WITHOUT_WORKER_S:
                        raise OpenAIError(
                            503,
                            f"No worker was alive for {MAX_TIME_WITHOUT_WORKER_S:.0f} seconds, "
                            "so the job is cancelled. Retry later.",
                            headers={"Retry-After": "30"},
                        )
                    last_id = (event and event.id) or last_id
                    yield event
            is_ended = (await jobs.get(job_id)).record.status in ENDED
    finally:
        if not is_ended:
            with anyio.CancelScope(shield=True):
                await jobs.cancel(job_id)


async def _is_worker_alive(jobs: JobRepository) -> bool:
    """Return whether a worker is alive, True if Redis does not say."""
    try:
        return await jobs.has_live_worker()
    except RedisError:
        return True


async def succeeded_job(
    jobs: JobRepository, job_id: str, base_url: str, call: ImagesCall
) -> JobRecord:
    """Return an ended job that has images. Raises OpenAIError with the reason if it has none."""
    record = (await jobs.get(job_id)).record
    error = record.outcome.error
    if error is None and record.status == "succeeded":
        return record
    # The service has already retried what is worth it, so the client must not.
    headers = {"Location": f"{base_url}/jobs/{job_id}", "x-should-retry": "false"}
    if error is None:
        message = f"Job {job_id} was cancelled before it had an image."
        raise OpenAIError(409, message, code="job_cancelled", headers=headers)
    message = f"{error.title}: {error.detail}."
    if error.kind == "internal":
        raise OpenAIError(500, message, headers=headers)
    if error.kind == "content":
        raise OpenAIError(400, message, code="content_policy_violation", headers=headers)
    message = error.detail
    is_size_error = message.startswith("size ")
    if is_size_error and call.width_px == 512:
        message += "; 512x512 is generated at 1024 and reduced"
    param = "size" if is_size_error else None
    raise OpenAIError(400, f"{message}.", param, "invalid_value", headers)


async def to_sse(
    events: AsyncGenerator[Event | None, None],
    services: Services,
    job_id: str,
    prefix: str,
    call: Any,
    base_url: str,
) -> AsyncIterator[bytes]:
    """Yield `PREFIX.partial_image` events, then `PREFIX.completed`, or `error`.

    prefix: image_generation or image_edit.
    call: a PromptedCall.
    """
    stream = _ImageStream(prefix, call)
    try:
        async with aclosing(events):
            async for event in events:
                if event is None:
                    yield KEEPALIVE_COMMENT
                elif event.name == "preview" and (partial := await stream.partial_image(event)):
                    yield partial
        record = await succeeded_job(services.jobs, job_id, base_url, call)
        (image,) = record.outcome.images
        yield await stream.completed(await services.images.read(record, 0), image.width)
    except OpenAIError as error:
        yield _error_event(error)
    except ServiceError as error:
        yield _error_event(from_service_error(error))
    except RedisError:
        yield _error_event(
            OpenAIError(503, "Redis is unavailable, so the job cannot be read. Retry shortly.")
        )


class _ImageStream:
    """Formats the events of one call."""

    def __init__(self, prefix: str, call: Any) -> None:
        self.prefix = prefix
        self.size = call.size or "1024x1024"
        self.options = OutputOptions.from_call(call)
        self.max_partial_images = call.partial_images or 0
        self.num_partial_images = 0
        # The qualities of DALL·E do not occur in events.
        quality = call.quality if call.quality not in (None, "standard", "hd") else "auto"
        self.common = {
            "background": "opaque",
            "output_format": self.options.output_format,
            "quality": quality,
        }

    async def partial_image(self, event: Event) -> bytes | None:
        """Return the event of a preview, None if it is too early for the next one.

        Partial images are spread over the job: the first of two comes after a third of it.
        """
        index = self.num_partial_images
        if index >= self.max_partial_images:
            return None
        preview = json.loads(event.data)
        if preview["fraction"] < (index + 1) / (self.max_partial_images + 1):
            return None
        self.num_partial_images += 1
        content = base64.b64decode(preview["image"].partition(",")[2])
        encoded = await self.options.encode(content)
        return self._format("partial_image", self.size, encoded, partial_image_index=index)

    async def completed(self, content: bytes, width_px: int) -> bytes:
        """Return the event of the final image. `width_px`: its generated width."""
        width_px = self.options.width_px or width_px
        encoded = await self.options.encode(content)
        return self._format("completed", f"{width_px}x{width_px}", encoded, usage=NO_USAGE)

    def _format(self, name: str, size: str, b64_json: str, **fields: Any) -> bytes:
        data = {
            "type": f"{self.prefix}.{name}",
            "b64_json": b64_json,
            "created_at": int(time.time()),
            "size": size,
            **self.common,
            **fields,
        }
        return format_sse_event(data_str=json.dumps(data), event=f"{self.prefix}.{name}")


def _error_event(error: OpenAIError) -> bytes:
    return format_sse_event(data_str=json.dumps(error.body), event="error")
