"""Prometheus metrics of the service: requests as they pass, and what Redis knows of queue, jobs and workers when asked.

What stands in Redis is the same whichever service is asked: of several, take one's (max), not the sum.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from typing import Any, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts import redis_keys
from contracts.jobs import now
from contracts.operations import OPERATIONS
from contracts.transitions import Reason
from service.jobs.estimate import beats
from service.jobs.repository import Jobs

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Metrics:
    """The service's own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "unclip_http_requests",
            "HTTP requests.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "unclip_http_request_duration_seconds",
            "Time to answer, waits that were asked for included.",
            ["method", "route"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
            registry=self.registry,
        )
        self.accepted = Counter(
            "unclip_jobs_accepted", "Jobs accepted.", ["operation"], registry=self.registry
        )
        self.webhooks = Counter(
            "unclip_webhook_attempts", "Attempts at webhooks.", ["outcome"], registry=self.registry
        )
        Info("unclip_build", "What runs here.", registry=self.registry).info(
            {"component": "service", "version": version("unclip-service")}
        )
        ProcessCollector(registry=self.registry)
        for operation in (
            OPERATIONS
        ):  # from the start: a series that begins with its first event has no rate for it
            self.accepted.labels(operation)

    def webhook(self, outcome: str) -> None:
        """An attempt at a webhook came to this."""
        self.webhooks.labels(outcome).inc()

    async def exposition(self, jobs: Jobs) -> bytes:
        """All metrics as text. Without Redis, unclip_redis_up is 0 and what only it knows is left out."""
        try:
            facts = await _facts(jobs.redis)
        except RedisError:
            facts = None
        snapshot = CollectorRegistry()
        snapshot.register(Snapshot(facts))
        return generate_latest(self.registry) + generate_latest(snapshot)


@dataclass(frozen=True)
class Facts:
    """What Redis knows at this moment."""

    waiting: int
    running: int
    head_age: float
    workers: int
    slots: int
    last_beat: float | None
    webhooks: int
    ended: dict[str, int] = field(default_factory=dict)


async def _facts(redis: Any) -> Facts:
    async with redis.pipeline(transaction=False) as pipe:
        pipe.llen(redis_keys.QUEUE_LIST).zcard(redis_keys.STARTED).lindex(redis_keys.QUEUE_LIST, 0)
        pipe.get(redis_keys.LAST_HEARTBEAT).zcard(redis_keys.WEBHOOKS).hgetall(redis_keys.OUTCOMES)
        waiting, running, head, last_beat, webhooks, ended = await pipe.execute()
    created = await redis.hget(redis_keys.job(head.decode()), "created_at") if head else None
    alive = await beats(redis)
    return Facts(
        waiting=waiting,
        running=running,
        head_age=(now() - datetime.fromisoformat(created.decode())).total_seconds()
        if created
        else 0.0,
        workers=len(alive),
        slots=sum(beat.slots for beat in alive),
        last_beat=float(last_beat) if last_beat else None,
        webhooks=webhooks,
        ended={name.decode(): int(count) for name, count in ended.items()},
    )


class Snapshot(Collector):
    """Facts as metrics; None where Redis does not answer."""

    def __init__(self, facts: Facts | None) -> None:
        self.facts = facts

    def collect(self) -> Iterable[Metric]:
        facts = self.facts
        yield GaugeMetricFamily("unclip_redis_up", "1 where Redis answers.", int(facts is not None))
        if facts is None:
            return
        yield GaugeMetricFamily("unclip_queue_jobs", "Jobs waiting for a worker.", facts.waiting)
        head = "Seconds since the job that runs next was accepted; 0 where none waits."
        yield GaugeMetricFamily("unclip_queue_head_age_seconds", head, facts.head_age)
        yield GaugeMetricFamily(
            "unclip_jobs_running", "Jobs that workers have begun.", facts.running
        )
        yield GaugeMetricFamily(
            "unclip_workers_alive", "Workers that have given a sign of life lately.", facts.workers
        )
        yield GaugeMetricFamily(
            "unclip_worker_slots", "Jobs that the living workers run at once.", facts.slots
        )
        yield GaugeMetricFamily(
            "unclip_webhooks_pending", "Webhooks that are still to be delivered.", facts.webhooks
        )
        if facts.last_beat is not None:
            beat = "When any worker last gave a sign of life; there is none before the first."
            yield GaugeMetricFamily(
                "unclip_workers_last_heartbeat_timestamp_seconds", beat, facts.last_beat
            )
        yield _ended(facts.ended)


def _ended(counts: dict[str, int]) -> Metric:
    """All combinations from the start, those without any too."""
    family = CounterMetricFamily(
        "unclip_jobs_ended",
        "Jobs ended; reason: why, where they failed.",
        labels=["operation", "outcome", "reason"],
    )
    outcomes = [
        ("succeeded", ""),
        ("cancelled", ""),
        *(("failed", reason) for reason in get_args(Reason)),
    ]
    for operation in OPERATIONS:
        for outcome, reason in outcomes:
            family.add_metric(
                [operation, outcome, reason],
                counts.get(redis_keys.outcome(operation, outcome, reason), 0),
            )
    return family


class MeasureRequests:
    """ASGI middleware: counts and times requests by route template, never by path."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

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
            method = (
                scope["method"] if route != "unknown" and scope["method"] in METHODS else "unknown"
            )
            self.metrics.requests.labels(method, route, status).inc()
            self.metrics.seconds.labels(method, route).observe(time.perf_counter() - started)
