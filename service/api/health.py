"""Probes and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from redis.exceptions import RedisError

from service.api.metrics import Metrics
from service.api.problems import redis_down, responses
from service.dependencies import ServicesDep
from service.errors import NoWorker

METRICS_MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
router = APIRouter()


@router.get("/healthz", summary="Check the process", response_class=PlainTextResponse)
async def healthz() -> str:
    """Respond as long as the process runs."""
    return "ok\n"


@router.get(
    "/readyz",
    summary="Check that jobs can run",
    response_class=PlainTextResponse,
    responses=responses(503),
)
async def readyz(services: ServicesDep) -> str:
    """Respond if Redis accepts jobs and a worker is alive."""
    try:
        await services.jobs.check_writable()
        is_ready = await services.jobs.has_live_worker()
    except RedisError as error:
        raise redis_down(error) from error
    if not is_ready:
        raise NoWorker("No worker is alive: jobs are accepted and wait for one.")
    return "ready\n"


@router.get("/metrics", summary="Get metrics", response_class=PlainTextResponse)
async def get_metrics(request: Request, services: ServicesDep) -> Response:
    """Return all metrics in the text format of Prometheus."""
    metrics: Metrics = request.app.state.metrics
    text = await metrics.exposition(services.jobs.redis)
    return Response(text, media_type=METRICS_MEDIA_TYPE)
