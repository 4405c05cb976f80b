"""Prometheus metrics of the service: requests as they pass, and what Redis knows of the queue when asked."""

from __future__ import annotations

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts import keys
from service.jobs import Jobs

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Metrics:
    """The service's own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("unclip_http_requests", "HTTP requests.", ["method", "route", "status"], registry=self.registry)
        self.seconds = Histogram(
            "unclip_http_request_duration_seconds",
            "Time to answer, waits that were asked for included.",
            ["method", "route"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
            registry=self.registry,
        )
        self.accepted = Counter("unclip_jobs_accepted", "Jobs accepted.", ["operation"], registry=self.registry)

        self.webhooks = Counter("unclip_webhook_attempts", "Attempts at webhooks.", ["outcome"], registry=self.registry)

    def webhook(self, outcome: str) -> None:
        """An attempt at a webhook came to this."""
        self.webhooks.labels(outcome).inc()

    async def exposition(self, jobs: Jobs) -> bytes:
        """All metrics as text. Without Redis, unclip_redis_up is 0 and what only it knows is left out."""
        try:
            waiting = int(await jobs.redis.llen(keys.QUEUE_LIST))
            workers = await jobs.workers_alive()
            outcomes = await jobs.redis.hgetall(keys.OUTCOMES)
            known = _Snapshot(waiting, workers, {key.decode(): int(count) for key, count in outcomes.items()})
        except RedisError:
            known = _Snapshot()
        snapshot = CollectorRegistry()
        snapshot.register(known)
        return generate_latest(self.registry) + generate_latest(snapshot)


class _Snapshot(Collector):
    def __init__(self, waiting: int | None = None, workers: int | None = None, outcomes: dict[str, int] | None = None) -> None:
        self.waiting, self.workers, self.outcomes = waiting, workers, outcomes

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("unclip_redis_up", "1 where Redis answers.", 0 if self.waiting is None else 1)
        if self.waiting is not None and self.workers is not None:
            yield GaugeMetricFamily("unclip_queue_jobs", "Jobs waiting for a worker.", self.waiting)
            yield GaugeMetricFamily("unclip_workers_alive", "Workers that have given a sign of life lately.", self.workers)
            ended = CounterMetricFamily("unclip_jobs_ended", "Jobs ended.", labels=["outcome"])
            for outcome, count in sorted((self.outcomes or {}).items()):
                ended.add_metric([outcome], count)
            yield ended


class MeasureRequests:
    """ASGI middleware: counts and times requests by route template, never by path."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            # Whatever a client sends as its method must not become a label.
            method = scope["method"] if route != "unknown" and scope["method"] in METHODS else "unknown"
            self.metrics.requests.labels(method, route, status).inc()
            self.metrics.seconds.labels(method, route).observe(time.perf_counter() - started)
