"""The application: settings, state, middleware and routers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

from fastapi import Depends, FastAPI
from fastapi.concurrency import run_in_threadpool

from infra import tracing
from infra.settings import PREFIX
from service.api import events, health, images, jobs, operations, problems, vocabulary
from service.api.metrics import Metrics, MetricsMiddleware
from service.api.openapi import describe
from service.api.present import present
from service.background import BackgroundTask, run_in_background
from service.dependencies import Services
from service.errors import InvalidSetting
from service.gallery import routes as gallery
from service.gallery.cleanup import delete_orphans_periodically, open_gallery
from service.jobs import index
from service.jobs.estimate import JobSnapshot
from service.jobs.images import JobImages
from service.jobs.repository import JobRepository
from service.jobs.result_store import ResultStore
from service.jobs.submit import JobSubmitter
from service.openai import routes as openai
from service.openai.errors import OpenAIErrorMiddleware
from service.requests.accept import JobAcceptor
from service.requests.prompt_filter import PromptFilter
from service.security.body_limit import BodyLimitMiddleware
from service.security.head_requests import HeadMiddleware
from service.security.middleware import ApiKeyMiddleware, require_api_key
from service.settings import Settings
from service.studio import routes as studio
from service.swagger import routes as swagger
from service.tracing import instrument
from service.webhooks.dispatcher import WebhookDispatcher

ROUTERS = (
    operations.router,
    jobs.router,
    events.router,
    images.router,
    health.router,
    gallery.router,
    vocabulary.router,
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Create the application; by default with settings from the environment.

    Raises InvalidSetting if the file of the prompt filter or the gallery is invalid.
    """
    settings = settings or Settings()
    metrics = Metrics()
    services = create_services(settings, metrics)
    keys_required = settings.api_keys == "required"
    app = FastAPI(
        title="unCLIP image service",
        summary="Generates images with unCLIP: a prior, a decoder and upsamplers.",
        version="0.1.0",
        lifespan=_lifespan,
        # Its own pages load scripts from another host.
        docs_url=None,
        redoc_url=None,
        responses=problems.responses(500),
        dependencies=[Depends(require_api_key)] if keys_required else None,
    )
    app.state.services = services
    app.state.metrics = metrics
    problems.install(app)
    app.add_middleware(
        BodyLimitMiddleware,
        max_bytes=settings.max_body_bytes,
        max_bytes_by_path=dict.fromkeys(
            operations.UPLOAD_PATHS + openai.UPLOAD_PATHS, settings.max_upload_bytes
        ),
        error_response=problems.problem_response,
    )
    if keys_required:
        app.add_middleware(ApiKeyMiddleware, jobs=services.jobs)
    app.add_middleware(HeadMiddleware)
    # Outside of all that may reject a call under /v1.
    app.add_middleware(OpenAIErrorMiddleware)
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    for router in ROUTERS:
        app.include_router(router)
    openai.install(app)
    studio.install(app)
    swagger.install(app)
    instrument(app)
    describe(app, keys_required=keys_required)
    return app


def create_services(settings: Settings, metrics: Metrics) -> Services:
    """Create what the routes use."""
    deny_list = settings.prompt_deny_list
    jobs = JobRepository(settings)
    store = ResultStore(settings.object_store_url) if settings.object_store_url else None
    submitter = JobSubmitter(settings, jobs, metrics.count_accepted)
    with _name_setting("PROMPT_DENY_LIST"):
        prompt_filter = PromptFilter(deny_list) if deny_list else None
    acceptor = JobAcceptor(submitter, prompt_filter, settings.log_prompts)
    image_gallery = None
    if settings.gallery_url:
        with _name_setting("GALLERY_URL"):
            image_gallery = open_gallery(settings.gallery_url, settings.gallery_files_url)
    return Services(settings, jobs, JobImages(jobs, store), acceptor, image_gallery)


@contextmanager
def _name_setting(name: str) -> Iterator[None]:
    """Turn a ValueError of the block into InvalidSetting with the name of the setting."""
    try:
        yield
    except ValueError as error:
        raise InvalidSetting(f"{PREFIX}{name}: {error}") from error


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    metrics: Metrics = app.state.metrics
    settings = services.settings
    jobs = services.jobs
    dispatcher = WebhookDispatcher(settings, jobs, _render, metrics.count_webhook)
    prune = partial(index.prune_periodically, jobs.redis, settings.result_ttl_s)
    tasks: list[BackgroundTask] = [prune, dispatcher.run]
    if services.gallery is not None:
        tasks.append(partial(delete_orphans_periodically, services.gallery))
    async with run_in_background(*tasks):
        yield
    await jobs.close()
    await run_in_threadpool(tracing.flush)


def _render(snapshot: JobSnapshot, base_url: str) -> bytes:
    """Return the body of a webhook."""
    return present(snapshot, base_url).model_dump_json().encode()
