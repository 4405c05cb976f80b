"""What Prometheus is told: valid text, true numbers, and labels that no client can multiply."""

from __future__ import annotations

from datetime import timedelta
from importlib.metadata import version
from typing import get_args

import httpx
import pytest
import redis.asyncio
from prometheus_client.parser import text_string_to_metric_families

from contracts import redis_keys
from contracts.jobs import WorkerHeartbeat, now, written
from contracts.operations import OPERATIONS
from contracts.transitions import Reason

pytestmark = pytest.mark.anyio


async def samples(
    client: httpx.AsyncClient,
) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """All samples by name and labels; the text has to parse, and no family may come twice."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(answer.text))
    assert len({family.name for family in families}) == len(families)
    assert all(family.documentation for family in families)
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in families
        for s in family.samples
    }


async def test_jobs_queue_and_workers_are_counted(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """From what this process accepted and from what Redis knows; a repeat is no job, and a worker whose beat stopped is none."""
    for key in ("a", "a", "b"):
        await client.post("/generate", json={"prompt": "x"}, headers={"idempotency-key": key})
    await store.hset(
        redis_keys.OUTCOMES,
        mapping={
            redis_keys.outcome("generate", "succeeded"): 7,
            redis_keys.outcome("edit", "failed", "rows"): 1,
        },
    )
    await store.sadd(redis_keys.WORKERS, "alive", "dead")
    await store.set(
        redis_keys.worker("alive"), WorkerHeartbeat(pid=1, slots=2).model_dump_json(), ex=10
    )
    await store.set(redis_keys.LAST_HEARTBEAT, "1700000000.125")
    await store.zadd(redis_keys.STARTED, {"job:execution": 1})
    await store.zadd(redis_keys.WEBHOOKS, {"job:succeeded": 1, "job:started": 2})
    found = await samples(client)
    assert found["unclip_redis_up", ()] == 1
    assert found["unclip_queue_jobs", ()] == 2
    assert found["unclip_jobs_running", ()] == 1
    assert found["unclip_workers_alive", ()] == 1
    assert found["unclip_worker_slots", ()] == 2
    assert found["unclip_workers_last_heartbeat_timestamp_seconds", ()] == 1700000000.125
    assert found["unclip_webhooks_pending", ()] == 2
    assert found["unclip_jobs_accepted_total", (("operation", "generate"),)] == 2
    assert await store.smembers(redis_keys.WORKERS) == {b"alive"}
    ended = {
        labels: value
        for (name, labels), value in found.items()
        if name == "unclip_jobs_ended_total"
    }
    assert len(ended) == len(OPERATIONS) * (2 + len(get_args(Reason)))
    assert {labels: value for labels, value in ended.items() if value} == {
        (("operation", "generate"), ("outcome", "succeeded"), ("reason", "")): 7,
        (("operation", "edit"), ("outcome", "failed"), ("reason", "rows")): 1,
    }


async def test_the_age_of_the_queue_is_that_of_the_job_that_runs_next(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """0 where none waits."""
    assert (await samples(client))["unclip_queue_head_age_seconds", ()] == 0
    old, young = [
        (await client.post("/generate", json={"prompt": "x"})).json()["id"] for _ in range(2)
    ]
    for job, age in ((old, 3600), (young, 60)):
        await store.hset(
            redis_keys.job(job), mapping=written(created_at=now() - timedelta(seconds=age))
        )
    assert 3600 <= (await samples(client))["unclip_queue_head_age_seconds", ()] < 3660


async def test_the_process_says_what_it_is(alone: httpx.AsyncClient) -> None:
    """Its version, when it began and what it takes, by the names that Prometheus' own clients use."""
    found = await samples(alone)
    assert (
        found[
            "unclip_build_info", (("component", "service"), ("version", version("unclip-service")))
        ]
        == 1
    )
    assert found["process_start_time_seconds", ()] > 0
    assert found["process_resident_memory_bytes", ()] > 0


async def test_requests_are_counted_by_route_not_by_path(alone: httpx.AsyncClient) -> None:
    """Whatever paths and methods clients send, the number of labels stays."""
    for index in range(5):
        await alone.get(f"/nothing/{index}")
        await alone.get(f"/jobs/{'x' * 101}{index}")
        await alone.request(f"METHOD{index}", "/generate")
        await alone.request(f"METHOD{index}", f"/nothing/{index}")
    await alone.post("/generate", content=b"{", headers={"content-type": "application/json"})
    counted = {
        labels: value
        for (name, labels), value in (await samples(alone)).items()
        if name == "unclip_http_requests_total"
    }
    assert {
        tuple(dict(labels)[name] for name in ("method", "route", "status")): value
        for labels, value in counted.items()
    } == {
        ("unknown", "unknown", "404"): 10,
        ("GET", "/jobs/{job_id}", "422"): 5,
        ("unknown", "/generate", "405"): 5,
        ("POST", "/generate", "400"): 1,
    }


async def test_without_redis_the_metrics_say_so(alone: httpx.AsyncClient) -> None:
    """unclip_redis_up is 0, and what only Redis knows is left out rather than 0."""
    found = await samples(alone)
    assert found["unclip_redis_up", ()] == 0
    assert not {name for name, _ in found} & {
        "unclip_queue_jobs",
        "unclip_workers_alive",
        "unclip_jobs_ended_total",
    }
