"""OpenAI's images API on the same jobs, for OpenAI's clients: `/v1/images/…` and `/v1/models`.

A call waits until its job has ended, as the clients expect.
"""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.datastructures import URL

from contracts.jobs import JobRecord
from service.dependencies import BaseUrlDep, OwnerDep, ServicesDep
from service.jobs.estimate import live_workers
from service.jobs.repository import JobRepository
from service.jobs.urls import JobUrls
from service.openai.errors import OpenAIError
from service.openai.parse import CALLS, parse_call
from service.openai.schemas import (
    ImagesCall,
    OpenAIErrorBody,
    OpenAIImage,
    OpenAIImages,
    OpenAIModel,
    OpenAIModels,
)
from service.openai.stream import OutputOptions, succeeded_job, to_sse, wait_for_end

# The name that code written for OpenAI's API requests.
DALLE2 = "dall-e-2"
UPLOAD_PATHS = [f"/v1/images/{name}" for name, call_type in CALLS.items() if call_type.files]
MAX_QUOTED_CHARACTERS = 80
STARTED_AT = int(time.time())
_DESCRIPTIONS = {
    400: "Invalid request.",
    401: "The API key is missing or invalid, if the service requires one.",
    404: "There is no such model.",
    409: "Another client cancelled the job.",
    413: "The body is too large.",
    429: "The queue is full, or a limit of the API key is reached. See Retry-After.",
    500: "Generation failed.",
    503: "Redis or every worker is unavailable.",
}
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}

router = APIRouter(prefix="/v1", tags=["OpenAI"])


def install(app: FastAPI) -> None:
    """Add the routes and the exception handler."""
    app.include_router(router)
    app.add_exception_handler(OpenAIError, _handle_openai_error)


async def _handle_openai_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, OpenAIError)
    return error.response()


def _responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": OpenAIErrorBody, "description": _DESCRIPTIONS[status]}
        for status in statuses
    }


def _request_body(name: str) -> dict[str, Any]:
    """Return OpenAPI's requestBody. The schemas have no references, so they are inlined."""
    call_type = CALLS[name]
    schema = call_type.schema.model_json_schema()
    if not call_type.files:
        return {"required": True, "content": {"application/json": {"schema": schema}}}
    descriptions = {
        "image": "The image, square.",
        "mask": (
            "As large as the image, transparent in the part to repaint. "
            "Default: the transparent part of the image."
        ),
    }
    files = {
        file_name: {
            "type": "string",
            "format": "binary",
            "description": descriptions[file_name],
        }
        for file_name in call_type.files
    }
    schema |= {
        "properties": files | schema["properties"],
        "required": ["image", *schema.get("required", [])],
    }
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


def _documentation(name: str) -> dict[str, Any]:
    """Return what the routes of images have in common, as arguments of `router.post`."""
    return {
        "operation_id": f"openai_images_{name}",
        "response_model": OpenAIImages,
        "openapi_extra": {"requestBody": _request_body(name)},
    }


_IMAGE_ERRORS = _responses(400, 401, 404, 409, 413, 429, 500, 503)
_MODEL_ERRORS = _responses(401, 429, 500, 503)


class CallContext:
    """What a call needs of the application. A dependency."""

    def __init__(
        self, request: Request, services: ServicesDep, owner: OwnerDep, base_url: BaseUrlDep
    ) -> None:
        self.request = request
        self.services = services
        self.jobs = services.jobs
        self.owner = owner
        self.base_url = base_url

    async def submit(self, name: str) -> tuple[ImagesCall, str]:
        """Parse a call and submit its job. Return the call and the job's id."""
        call, job_request = await parse_call(self.request, name, self.services.settings)
        await find_model(self.jobs, call.model or DALLE2)
        job = await self.services.acceptor.accept(job_request, None, self.owner)
        return call, job.job_id

    def headers(self, job_id: str) -> dict[str, str]:
        """Return the headers of a response about a job."""
        return {"Location": f"{self.base_url}/jobs/{job_id}"}


Context = Annotated[CallContext, Depends()]


@router.post(
    "/images/generations",
    summary="Generate images of a prompt",
    responses=_IMAGE_ERRORS | _EVENTS,
    **_documentation("generations"),
)
async def create_generations(context: Context) -> Response:
    """Generate images like OpenAI's call of this path.

    The response comes when the images are finished; a client that disconnects cancels them.
    """
    return await _respond(context, "generations", "image_generation")


@router.post(
    "/images/edits",
    summary="Repaint the transparent part of an image",
    responses=_IMAGE_ERRORS | _EVENTS,
    **_documentation("edits"),
)
async def create_edits(context: Context) -> Response:
    """Edit an image like OpenAI's call of this path.

    The response comes when the images are finished; a client that disconnects cancels them.
    """
    return await _respond(context, "edits", "image_edit")


@router.post(
    "/images/variations",
    summary="Create variations of an image",
    responses=_IMAGE_ERRORS,
    **_documentation("variations"),
)
async def create_variations(context: Context) -> Response:
    """Create variations like OpenAI's call of this path.

    The response comes when the images are finished; a client that disconnects cancels them.
    """
    return await _respond(context, "variations", None)


@router.get("/models", summary="List models", responses=_MODEL_ERRORS)
async def list_models(context: Context) -> OpenAIModels:
    """List dall-e-2, which stands for any checkpoint, and the workers' checkpoints by name."""
    return OpenAIModels(data=await _models(context.jobs))


@router.get("/models/{model_id}", summary="Get a model", responses=_responses(404) | _MODEL_ERRORS)
async def get_model(context: Context, model_id: str) -> OpenAIModel:
    """Return one model, 404 if it is unknown."""
    return await find_model(context.jobs, model_id)


async def find_model(jobs: JobRepository, name: str) -> OpenAIModel:
    """Return a model by name. Raises OpenAIError 404 if there is none, 503 if it is unknown."""
    models = await _models(jobs)
    for model in models:
        if model.id == name:
            return model
    quoted = repr(name[:MAX_QUOTED_CHARACTERS])
    if len(models) == 1 and not await jobs.has_live_worker():
        raise OpenAIError(
            503,
            f"No worker is alive, so the model {quoted} cannot be looked up. Retry shortly.",
            "model",
            headers={"Retry-After": "5"},
        )
    names = ", ".join(repr(model.id) for model in models)
    raise OpenAIError(
        404, f"There is no model {quoted}. Use one of {names}.", "model", "model_not_found"
    )


async def _models(jobs: JobRepository) -> list[OpenAIModel]:
    names = {worker.checkpoint for worker in await live_workers(jobs.redis) if worker.checkpoint}
    return [
        OpenAIModel(id=name, created=STARTED_AT, owned_by="unclip-service")
        for name in (DALLE2, *sorted(names - {DALLE2}))
    ]


async def _respond(context: CallContext, name: str, event_prefix: str | None) -> Response:
    """Submit a call and respond with its images, or with events if it requests a stream.

    event_prefix: what the names of events start with; None for calls that have no stream.
    """
    call, job_id = await context.submit(name)
    headers = context.headers(job_id)
    if event_prefix is not None and getattr(call, "stream", False):
        has_previews = bool(getattr(call, "partial_images", 0))
        events = wait_for_end(context.request, context.jobs, job_id, previews=has_previews)
        content = to_sse(events, context.services, job_id, event_prefix, call, context.base_url)
        headers |= {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(content, 200, headers, "text/event-stream")
    async with aclosing(wait_for_end(context.request, context.jobs, job_id)) as events:
        async for _ in events:
            pass
    record = await succeeded_job(context.jobs, job_id, context.base_url, call)
    images = await _present_images(context, record, OutputOptions.from_call(call))
    return JSONResponse(images.model_dump(exclude_none=True), 200, headers)


async def _present_images(
    context: CallContext, record: JobRecord, options: OutputOptions
) -> OpenAIImages:
    images = record.outcome.images
    data = [await _present_image(context, record, index, options) for index in range(len(images))]
    width_px = options.width_px or images[0].width
    return OpenAIImages(
        created=int((record.finished_at or record.spec.created_at).timestamp()),
        data=data,
        output_format=options.output_format,
        size=f"{width_px}x{width_px}",
    )


async def _present_image(
    context: CallContext, record: JobRecord, index: int, options: OutputOptions
) -> OpenAIImage:
    if not options.by_url:
        png = await context.services.images.read(record, index)
        return OpenAIImage(b64_json=await options.encode(png))
    url = URL(JobUrls(context.base_url, record.id, record.spec.link).image(index))
    if options.width_px not in (None, record.outcome.images[index].width):
        url = url.include_query_params(size=options.width_px)
    return OpenAIImage(url=str(url))
