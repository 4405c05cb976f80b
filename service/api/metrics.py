"""Prometheus metrics: requests of this process, and the state of queue, jobs and workers in Redis.

Every service reports the same state of Redis: of several take one's (max), not the sum.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
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
from contracts.jobs import JobSpec, now
from contracts.operations import OPERATIONS
from contracts.transitions import Reason
from infra.version import installed_version
from service.jobs.estimate import live_workers
from service.webhooks.dispatcher import Outcome

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# Routes without metrics of their own, such as paths that no route matches.
UNKNOWN = "unknown"


class Metrics:
    """Metrics of this process."""

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
            "Time to the response, including waits that clients request.",
            ["method", "route"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
            registry=self.registry,
        )
        self.accepted = Counter(
            "unclip_jobs_accepted", "Jobs accepted.", ["operation"], registry=self.registry
        )
        self.webhooks = Counter(
            "unclip_webhook_attempts", "Webhook attempts.", ["outcome"], registry=self.registry
        )
        Info("unclip_build", "Version of this process.", registry=self.registry).info(
            {"component": "service", "version": installed_version()}
        )
        ProcessCollector(registry=self.registry)
        # A series that begins with its first event has no rate for it, so all begin at 0.
        for operation in OPERATIONS:
            self.accepted.labels(operation)
        for outcome in get_args(Outcome):
            self.webhooks.labels(outcome)

    def count_accepted(self, operation: str) -> None:
        """Count an accepted job."""
        self.accepted.labels(operation).inc()

    def count_webhook(self, outcome: str) -> None:
        """Count a webhook attempt."""
        self.webhooks.labels(outcome).inc()

    async def exposition(self, redis: Any) -> bytes:
        """Return all metrics as text. Without Redis, unclip_redis_up is 0 and its state missing."""
        try:
            state = await _read_state(redis)
        except RedisError:
            state = None
        registry = CollectorRegistry()
        registry.register(RedisCollector(state))
        return generate_latest(self.registry) + generate_latest(registry)


@dataclass(frozen=True)
class RedisState:
    """State of queue, jobs and workers."""

    waiting: int
    running: int
    head_age_s: float
    workers: int
    slots: int
    last_heartbeat: float | None
    pending_webhooks: int
    outcomes: dict[str, int] = field(default_factory=dict)


async def _read_state(redis: Any) -> RedisState:
    async with redis.pipeline(transaction=False) as pipe:
        pipe.llen(redis_keys.QUEUE_LIST).zcard(redis_keys.STARTED).lindex(redis_keys.QUEUE_LIST, 0)
        pipe.get(redis_keys.LAST_HEARTBEAT).smembers(redis_keys.WEBHOOKS)
        pipe.hgetall(redis_keys.OUTCOMES)
        waiting, running, head, last_heartbeat, lanes, outcomes = await pipe.execute()
    async with redis.pipeline(transaction=False) as pipe:
        for lane in lanes:
            pipe.zcard(redis_keys.webhooks(lane.decode()))
        pending = await pipe.execute()
    spec = await redis.hget(redis_keys.job(head.decode()), "spec") if head else None
    head_age_s = 0.0
    if spec is not None:
        head_age_s = (now() - JobSpec.model_validate_json(spec).created_at).total_seconds()
    workers = await live_workers(redis)
    return RedisState(
        waiting=waiting,
        running=running,
        head_age_s=head_age_s,
        workers=len(workers),
        slots=sum(worker.slots for worker in workers),
        last_heartbeat=float(last_heartbeat) if last_heartbeat else None,
        pending_webhooks=sum(pending),
        outcomes={name.decode(): int(count) for name, count in outcomes.items()},
    )


class RedisCollector(Collector):
    """State of Redis as metrics; None if Redis is unavailable."""

    def __init__(self, state: RedisState | None) -> None:
        self.state = state

    def collect(self) -> Iterable[Metric]:
        state = self.state
        is_up = int(state is not None)
        yield GaugeMetricFamily("unclip_redis_up", "1 if Redis is available.", is_up)
        if state is None:
            return
        for name, description, value in _gauges(state):
            if value is not None:
                yield GaugeMetricFamily(name, description, value)
        yield _ended_jobs(state.outcomes)


def _gauges(state: RedisState) -> list[tuple[str, str, float | None]]:
    """Return name, description and value of each gauge."""
    return [
        ("unclip_queue_jobs", "Jobs that wait for a worker.", state.waiting),
        (
            "unclip_queue_head_age_seconds",
            "Seconds since the first waiting job was accepted; 0 if none waits.",
            state.head_age_s,
        ),
        ("unclip_jobs_running", "Jobs that run.", state.running),
        ("unclip_workers_alive", "Workers with a recent heartbeat.", state.workers),
        ("unclip_worker_slots", "Jobs that live workers run concurrently.", state.slots),
        ("unclip_webhooks_pending", "Webhook deliveries to come.", state.pending_webhooks),
        (
            "unclip_workers_last_heartbeat_timestamp_seconds",
            "Time of the last heartbeat of any worker; missing before the first.",
            state.last_heartbeat,
        ),
    ]


def _ended_jobs(counts: dict[str, int]) -> Metric:
    """Return the counter of ended jobs, with all combinations of labels from the start."""
    family = CounterMetricFamily(
        "unclip_jobs_ended",
        "Jobs that ended; reason: why, for those that failed.",
        labels=["operation", "outcome", "reason"],
    )
    failures = [("failed", reason) for reason in get_args(Reason)]
    outcomes = [("succeeded", ""), ("cancelled", ""), *failures]
    for operation in OPERATIONS:
        for outcome, reason in outcomes:
            count = counts.get(redis_keys.outcome(operation, outcome, reason), 0)
            family.add_metric([operation, outcome, reason], count)
    return family


class MetricsMiddleware:
    """Count and time requests by the template of their route, never by their path."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started_at = time.perf_counter()
        status = 500

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_note_status)
        finally:
            route = getattr(scope.get("route"), "path", UNKNOWN)
            # Clients may send any method, which must not become a label.
            is_known = route != UNKNOWN and scope["method"] in METHODS
            method = scope["method"] if is_known else UNKNOWN
            self.metrics.requests.labels(method, route, status).inc()
            self.metrics.seconds.labels(method, route).observe(time.perf_counter() - started_at)
