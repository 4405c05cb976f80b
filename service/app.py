"""The application: routes over the job store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated

from fastapi import Depends, FastAPI, Header, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import (
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from redis.exceptions import RedisError

from contracts.fields import MAX_FRAMES
from contracts.jobs import ENDED, Job
from contracts.operations import num_images
from contracts.provenance import Provenance
from infra import tracing
from service.api import images
from service.api import jobs as job_routes
from service.api.metrics import MeasureRequests, Metrics
from service.api.negotiation import wait_seconds, wants_png
from service.api.problems import Problem, install, problem, problem_response, responses
from service.api.tracing import instrument
from service.background import background
from service.errors import NotAcceptable, NoWorker, RedisDown
from service.jobs import index
from service.jobs.events import EVENT_ID, START, server_sent
from service.jobs.repository import Accepted, Jobs
from service.openai import routes as openai_routes
from service.openai.errors import PREFIX, OpenAIErrorMiddleware
from service.requests.parse import read, schema_of, schemas
from service.security.body_limit import BodyLimitMiddleware
from service.security.middleware import (
    ApiKeyMiddleware,
    current_owner,
    describe_security,
    require_api_key,
)
from service.settings import Settings
from service.webhooks.dispatcher import WebhookDispatcher

PNG = {"image/png": {"schema": {"type": "string", "format": "binary"}}}
ANIMATIONS = dict.fromkeys(("image/webp", "image/apng"), PNG["image/png"])
EVENTS = {"text/event-stream": {"schema": {"type": "string"}}}
NOT_SENT = {"description": "The client has it already, by If-None-Match."}
ROUTES = (
    ("/generate", "generate", "Draw a caption"),
    ("/variations", "variations", "Draw an image again, differently"),
    ("/interpolate", "interpolate", "Go from one image or caption to another"),
    ("/text-diff", "text-diff", "Move an image by the difference of two captions"),
    ("/edits", "edit", "Redraw part of an image"),
    ("/probe", "probe", "Look into an image's embedding"),
    ("/embeddings", "embeddings", "A caption's or an image's embedding"),
)
JobId = Annotated[str, Path(description="The job's id, as its creation answered.", max_length=100)]
Link = Annotated[
    str | None,
    Query(
        description="Of an image's URL, where keys are required: opens it without one.",
        max_length=100,
    ),
]


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service. Settings are read from the environment unless given."""
    settings = settings or Settings()
    jobs = Jobs(settings)
    metrics = Metrics()
    keys_required = settings.api_keys == "required"

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with background(
            partial(index.keep_clear, jobs.redis, settings.result_ttl_s),
            WebhookDispatcher(settings, jobs, metrics.webhook).run,
        ):
            yield
        await jobs.close()
        await run_in_threadpool(tracing.flush)

    app = FastAPI(
        title="unCLIP image service",
        summary="Draws images from captions by unCLIP: a prior, a decoder and upsamplers, on one's own machines.",
        version="0.1.0",
        lifespan=lifespan,
        responses=responses(500),
        dependencies=[Depends(require_api_key)] if keys_required else None,
    )
    install(app)
    uploads = [path for path, *_ in ROUTES[1:]] + openai_routes.UPLOAD_PATHS
    app.add_middleware(
        BodyLimitMiddleware,
        max_bytes=settings.max_body_bytes,
        max_bytes_by_path=dict.fromkeys(uploads, settings.max_upload_bytes),
        error_response=problem_response,
    )
    if keys_required:
        app.add_middleware(ApiKeyMiddleware, jobs=jobs)
    app.add_middleware(OpenAIErrorMiddleware)  # around all that may refuse a call under /v1
    app.add_middleware(MeasureRequests, metrics=metrics)
    instrument(app)
    app.state.jobs = jobs
    app.state.metrics = metrics
    app.state.settings = settings

    def base_url(request: Request) -> str:
        return str(settings.public_url or request.base_url).rstrip("/")

    def add(path: str, operation: str, summary: str) -> None:
        @app.post(
            path,
            name=operation,
            operation_id=operation.replace("-", "_"),
            status_code=202,
            summary=summary,
            openapi_extra={"requestBody": schema_of(operation)},
            responses={
                200: {
                    "model": Job,
                    "content": PNG,
                    "description": "The ended job, or its image: with Prefer: wait (and Accept: image/png).",
                },
                202: {"model": Job, "description": "Accepted. The job is at Location."},
                **responses(400, 406, 413, 415, 422, 429, 503),
            },
        )
        async def accept_work(
            request: Request,
            prefer: Annotated[
                list[str] | None,
                Header(description="wait=SECONDS holds the answer until the job ended (RFC 7240)."),
            ] = None,
            accept: Annotated[
                list[str] | None,
                Header(description="image/png, with a wait and one image: the PNG itself."),
            ] = None,
            idempotency_key: Annotated[
                str | None,
                Header(
                    min_length=1,
                    max_length=255,
                    description="A repeat with the same key answers with the first job.",
                ),
            ] = None,
        ) -> Response:
            """Accepts the job and answers at once, or after the wait that `Prefer` asks for."""
            wait = wait_seconds(prefer or [], settings.max_wait)
            png = wants_png(accept or [])
            work = await read(
                request,
                operation,
                settings,
                partial(jobs.find_image, owner=_owner_id(request)),
            )
            count = num_images(work.fields)
            if png and count != 1:
                raise NotAcceptable(
                    f"image/png holds one image, and this makes {count}. Ask for one, or for application/json.",
                )
            accepted = await run_in_threadpool(
                jobs.accept, work, idempotency_key, current_owner(request)
            )
            if not accepted.repeated:
                metrics.accepted.labels(operation).inc()
            return await answer(request, accepted, wait, png)

    for path, operation, summary in ROUTES:
        add(path, operation, summary)
    job_routes.install(app, jobs, base_url, _owner_id)
    openai_routes.install(app)

    async def answer(
        request: Request, accepted: Accepted, wait: float | None, png: bool
    ) -> Response:
        job_id = accepted.job_id
        base = base_url(request)
        headers = {"Location": f"{base}/jobs/{job_id}", "Vary": "Accept, Prefer"}
        if wait is not None:
            headers["Preference-Applied"] = f"wait={wait:g}"
        try:
            if wait is not None:
                await jobs.wait(job_id, wait)
            known = accepted.standing if wait is None else None
            job = await jobs.find(job_id, base) if known is None else jobs.told(job_id, known, base)
        except RedisError as error:
            detail = "The job is accepted, but Redis does not answer to tell of it. Ask for it at Location shortly."
            raise RedisDown(detail, headers=headers) from error
        if wait is None or job.status not in ENDED:
            return JSONResponse(job.model_dump(mode="json"), 202, headers)
        if not png:
            return JSONResponse(job.model_dump(mode="json"), 200, headers)
        if job.error is not None:
            status = 500 if job.error.kind == "internal" else 422
            return problem(status, job.error.detail, headers=headers)
        return Response(await jobs.read_image(job.id, 0), 200, headers, "image/png")

    @app.get(
        "/jobs/{job_id}",
        response_model=Job,
        summary="How a job stands",
        responses=responses(404, 422, 503),
    )
    async def get_job(request: Request, job_id: JobId) -> Job:
        """The job: its status, progress, resolved parameters and, once it succeeded, where its images are."""
        return await jobs.find(job_id, base_url(request))

    @app.delete(
        "/jobs/{job_id}",
        response_model=Job,
        summary="Cancel a job",
        responses=responses(404, 422, 503),
    )
    async def cancel_job(request: Request, job_id: JobId) -> Job:
        """Ends a job that waits or runs, within two steps, without images. A job that has ended stays as it is: `status` tells."""
        await jobs.cancel(job_id)
        return await jobs.find(job_id, base_url(request))

    @app.get(
        "/jobs/{job_id}/events",
        response_class=StreamingResponse,
        summary="A job as it goes",
        responses={
            200: {"content": EVENTS, "description": "Server-sent events, to the job's end."},
            **responses(404, 422, 503),
        },
    )
    async def get_events(
        request: Request,
        job_id: JobId,
        previews: Annotated[bool, Query(description="Also the images so far.")] = True,
        last_event_id: Annotated[
            str, Header(pattern=EVENT_ID, description="Go on after this event.")
        ] = START,
    ) -> StreamingResponse:
        """`queued` with queue_position and eta_seconds; `progress`; `preview` with a small image as data URL; at last `ended` with the
        job's status. A line that broke is taken up again with `Last-Event-ID`, as browsers do by themselves."""
        await jobs.find(job_id, base_url(request))
        events = jobs.events.listen(job_id, last_event_id, previews=previews)
        return StreamingResponse(
            server_sent(events),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    @app.get(
        "/jobs/{job_id}/images/{index}.png",
        response_class=Response,
        summary="A job's image",
        responses={
            200: {"content": PNG, "description": "The image, its parameters in its own metadata."},
            304: NOT_SENT,
            **responses(404, 422, 503),
        },
    )
    async def get_image(
        request: Request,
        job_id: JobId,
        index: Annotated[int, Path(ge=0, lt=MAX_FRAMES)],
        size: Annotated[
            int | None,
            Query(ge=16, le=1024, description="Reduced to this width, where it is wider."),
        ] = None,
        link: Link = None,
    ) -> Response:
        """A PNG that carries everything needed to draw it again in its `unclip` text chunk."""
        return await images.image(request, jobs, job_id, index, size)

    @app.get(
        "/jobs/{job_id}/images/{index}.json",
        response_model=Provenance,
        summary="How a job's image was drawn",
        responses=responses(404, 422, 503),
    )
    async def get_provenance(
        job_id: JobId, index: Annotated[int, Path(ge=0, lt=MAX_FRAMES)]
    ) -> Provenance:
        """What the image's own `unclip` text chunk holds: every parameter, digests of checkpoint and input images, versions."""
        return await images.provenance(jobs, job_id, index)

    @app.get(
        "/jobs/{job_id}/animation",
        response_class=Response,
        summary="A job's frames as one animated image",
        responses={
            200: {"content": ANIMATIONS, "description": "The animation, where one was asked for."},
            304: NOT_SENT,
            **responses(404, 422, 503),
        },
    )
    async def get_animation(request: Request, job_id: JobId, link: Link = None) -> Response:
        """An animated WebP or APNG, there and back again."""
        return await images.animation(request, jobs, job_id)

    @app.get("/healthz", summary="Is the process up", response_class=PlainTextResponse)
    async def healthz() -> str:
        """Touches nothing."""
        return "ok\n"

    @app.get(
        "/readyz",
        summary="Can work be done",
        response_class=PlainTextResponse,
        responses=responses(503),
    )
    async def readyz() -> str:
        """Redis answers and a worker is alive."""
        try:
            workers = await jobs.workers_alive()
        except RedisError as error:
            raise RedisDown("Redis is unavailable.") from error
        if not workers:
            raise NoWorker("No worker is alive: jobs are accepted and wait for one.")
        return "ready\n"

    @app.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse)
    async def get_metrics() -> Response:
        """In Prometheus' text format."""
        return Response(
            await metrics.exposition(jobs), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    @app.get("/", include_in_schema=False)
    async def home() -> RedirectResponse:
        return RedirectResponse("/docs")

    _describe(app, keys_required)
    return app


def _owner_id(request: Request) -> str | None:
    owner = current_owner(request)
    return owner.id if owner else None


def _describe(app: FastAPI, keys_required: bool) -> None:
    """Put the problem's schema into the OpenAPI document, and take FastAPI's own validation error out, under /v1 with its status;
    and what the gate wants."""
    made = app.openapi

    def openapi() -> dict[str, object]:
        document = made()
        known = document.setdefault("components", {}).setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            known.pop(name, None)
        for path, methods in document["paths"].items():
            if path.startswith(PREFIX):  # faults of fields are 400 there
                for one in methods.values():
                    one["responses"].pop("422", None)
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        known.update(problem.pop("$defs", {}) | {"Problem": problem} | schemas())
        if keys_required:
            describe_security(document, responses(401, 429))
        return document

    app.openapi = openapi  # type: ignore[method-assign]
