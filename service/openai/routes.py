"""OpenAI's images API over the same jobs, for its own clients: `/v1/images/…` and `/v1/models`.

A call holds until its job has ended, as its clients expect, and its errors have the form that they read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.datastructures import URL

from contracts.jobs import Image
from service.api.metrics import Metrics
from service.jobs.estimate import beats
from service.jobs.repository import Jobs
from service.openai.errors import OpenAIError
from service.openai.parse import CALLS, FILES, read
from service.openai.schemas import (
    OpenAIErrorBody,
    OpenAIImage,
    OpenAIImages,
    OpenAIModel,
    OpenAIModels,
)
from service.openai.stream import Form, follow, server_sent, succeeded
from service.security.middleware import current_owner
from service.settings import Settings

DALLE2 = "dall-e-2"  # what the code asks for that this is for
ROUTES = (
    ("generations", "Draw a caption", "image_generation"),
    ("edits", "Redraw the transparent part of an image", "image_edit"),
    ("variations", "Draw an image again, differently", None),
)
UPLOADS = [f"/v1/images/{call}" for call, files in FILES.items() if files]
REASONS = {
    400: "The call will not do.",
    401: "The API key is missing or is none.",
    404: "There is no such model.",
    409: "The job was cancelled by somebody else.",
    413: "The body is too large.",
    429: "The queue is full, or the API key over its limits. Retry-After says when to try again.",
    500: "The drawing failed.",
    503: "Redis, or every worker, is away.",
}


def install(
    app: FastAPI,
    jobs: Jobs,
    metrics: Metrics,
    settings: Settings,
    base_url: Callable[[Request], str],
) -> None:
    """Add the routes."""
    started = int(time.time())
    gated = (401, 429) if settings.api_keys == "required" else ()

    async def models() -> list[OpenAIModel]:
        names = {beat.checkpoint for beat in await beats(jobs.redis) if beat.checkpoint}
        return [
            OpenAIModel(id=name, created=started, owned_by="unclip-service")
            for name in (DALLE2, *sorted(names - {DALLE2}))
        ]

    async def model(name: str) -> OpenAIModel:
        known = await models()
        for one in known:
            if one.id == name:
                return one
        if len(known) == 1 and not await jobs.workers_alive():
            detail = f"No worker is alive that could tell whether there is a model {name[:80]!r}. Try again shortly."
            raise OpenAIError(503, detail, "model", headers={"Retry-After": "5"})
        detail = f"There is no model {name[:80]!r} here. There are {', '.join(repr(one.id) for one in known)}."
        raise OpenAIError(404, detail, "model", "model_not_found")

    def add(call: str, summary: str, events: str | None) -> None:
        @app.post(
            f"/v1/images/{call}",
            operation_id=f"openai_images_{call}",
            summary=summary,
            tags=["OpenAI"],
            response_model=OpenAIImages,
            openapi_extra={"requestBody": _body_of(call)},
            responses=_responses(400, 404, 409, 413, 429, 500, 503, *gated)
            | ({200: {"content": _EVENTS}} if events else {}),
        )
        async def images(request: Request) -> Response:
            """As OpenAI's own call of this path. Holds until the images are done; a client that goes away cancels them."""
            asked, work = await read(request, call, settings)
            await model(asked.model or DALLE2)
            accepted = await run_in_threadpool(jobs.accept, work, None, current_owner(request))
            metrics.accepted.labels(work.operation).inc()
            base = base_url(request)
            headers = {"Location": f"{base}/jobs/{accepted.job_id}"}
            if events and getattr(asked, "stream", False):
                heard = follow(
                    request,
                    jobs,
                    accepted.job_id,
                    previews=bool(getattr(asked, "partial_images", 0)),
                )
                content = server_sent(heard, jobs, accepted.job_id, events, asked, base)
                headers |= {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
                return StreamingResponse(content, 200, headers, "text/event-stream")
            async with aclosing(follow(request, jobs, accepted.job_id)) as heard:
                async for _ in heard:
                    pass
            job = await succeeded(jobs, accepted.job_id, base, asked)
            form = Form.of(asked)
            data = [
                await present_image(accepted.job_id, index, image, form)
                for index, image in enumerate(job.images)
            ]
            side = form.side or job.images[0].width
            created = int((job.finished_at or job.created_at).timestamp())
            answer = OpenAIImages(
                created=created, data=data, output_format=form.output_format, size=f"{side}x{side}"
            )
            return JSONResponse(answer.model_dump(exclude_none=True), 200, headers)

    async def present_image(job_id: str, index: int, image: Image, form: Form) -> OpenAIImage:
        if not form.by_url:
            return OpenAIImage(b64_json=await form.encoded(await jobs.read_image(job_id, index)))
        reduced = {} if form.side in (None, image.width) else {"size": form.side}
        return OpenAIImage(url=str(URL(image.url).include_query_params(**reduced)))

    for call, summary, events in ROUTES:
        add(call, summary, events)

    @app.get(
        "/v1/models", summary="Models", tags=["OpenAI"], responses=_responses(500, 503, *gated)
    )
    async def list_models() -> OpenAIModels:
        """dall-e-2, which is whatever the workers draw with, and that by its own name."""
        return OpenAIModels(data=await models())

    @app.get(
        "/v1/models/{model_id}",
        summary="A model",
        tags=["OpenAI"],
        responses=_responses(404, 500, 503, *gated),
    )
    async def get_model(model_id: str) -> OpenAIModel:
        """One of them."""
        return await model(model_id)

    @app.exception_handler(OpenAIError)
    async def refused(request: Request, error: OpenAIError) -> Response:
        return error.response()


_EVENTS = {"text/event-stream": {"schema": {"type": "string"}}}


def _responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": OpenAIErrorBody, "description": REASONS[status]} for status in statuses
    }


def _body_of(call: str) -> dict[str, Any]:
    """OpenAPI's requestBody. The calls' schemas refer to nothing, so they stand here whole."""
    schema = CALLS[call][0].model_json_schema()
    if not FILES[call]:
        return {"required": True, "content": {"application/json": {"schema": schema}}}
    about = {
        "image": "The image, square.",
        "mask": "As large as the image, transparent where to redraw; else the image itself is.",
    }
    files = {
        name: {"type": "string", "format": "binary", "description": about[name]}
        for name in FILES[call]
    }
    schema |= {
        "properties": files | schema["properties"],
        "required": ["image", *schema.get("required", [])],
    }
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
