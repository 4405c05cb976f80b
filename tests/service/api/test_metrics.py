"""Prometheus metrics: valid text, correct numbers, and a bounded number of labels."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import get_args

import httpx
import pytest
import redis.asyncio
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from contracts import redis_keys
from contracts.jobs import JobSpec, WorkerHeartbeat, now
from contracts.operations import OPERATIONS
from contracts.transitions import Reason
from service.api.metrics import Metrics

pytestmark = pytest.mark.anyio
Labels = tuple[tuple[str, str], ...]
HEAD_AGE = "unclip_queue_head_age_seconds"


async def read_samples(client: httpx.AsyncClient) -> dict[tuple[str, Labels], float]:
    """Return all samples by name and labels. No family may come twice or lack documentation."""
    response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(response.text))
    assert max(Counter(family.name for family in families).values()) == 1
    assert all(family.documentation for family in families)
    samples = [sample for family in families for sample in family.samples]
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for s in samples}


async def read_samples_of(client: httpx.AsyncClient, name: str) -> dict[Labels, float]:
    """Return the samples of one metric by labels."""
    samples = await read_samples(client)
    return {labels: value for (metric, labels), value in samples.items() if metric == name}


async def test_the_state_of_redis_is_reported(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """Gauges show queue, workers and webhooks; a worker without heartbeat does not count."""
    for _ in range(2):
        await client.post("/generate", json={"prompt": "x"})
    heartbeat = WorkerHeartbeat(pid=1, slots=2).model_dump_json()
    await store.sadd(redis_keys.WORKERS, "alive", "dead")
    await store.set(redis_keys.worker("alive"), heartbeat, ex=10)
    await store.set(redis_keys.LAST_HEARTBEAT, "1700000000.125")
    await store.zadd(redis_keys.STARTED, {"job:execution": 1})
    await store.sadd(redis_keys.WEBHOOKS, "key:a", "key:b")
    await store.zadd(redis_keys.webhooks("key:a"), {"job:succeeded": 1})
    await store.zadd(redis_keys.webhooks("key:b"), {"job:started": 2})
    samples = await read_samples(client)
    expected = {
        "unclip_redis_up": 1,
        "unclip_queue_jobs": 2,
        "unclip_jobs_running": 1,
        "unclip_workers_alive": 1,
        "unclip_worker_slots": 2,
        "unclip_workers_last_heartbeat_timestamp_seconds": 1700000000.125,
        "unclip_webhooks_pending": 2,
    }
    assert {name: samples[name, ()] for name in expected} == expected
    assert await store.smembers(redis_keys.WORKERS) == {b"alive"}


async def test_accepted_jobs_are_counted_once(client: httpx.AsyncClient) -> None:
    """A repeated Idempotency-Key is not another job."""
    for key in ("a", "a", "b"):
        await client.post("/generate", json={"prompt": "x"}, headers={"idempotency-key": key})
    accepted = await read_samples_of(client, "unclip_jobs_accepted_total")
    assert accepted[(("operation", "generate"),)] == 2


async def test_ended_jobs_are_counted_by_outcome(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """Every combination of labels has a series, those without a job too."""
    counts = {
        redis_keys.outcome("generate", "succeeded"): 7,
        redis_keys.outcome("edit", "failed", "rows"): 1,
    }
    await store.hset(redis_keys.OUTCOMES, mapping=counts)
    ended = await read_samples_of(client, "unclip_jobs_ended_total")
    assert len(ended) == len(OPERATIONS) * (2 + len(get_args(Reason)))
    assert {labels: value for labels, value in ended.items() if value} == {
        (("operation", "generate"), ("outcome", "succeeded"), ("reason", "")): 7,
        (("operation", "edit"), ("outcome", "failed"), ("reason", "rows")): 1,
    }


async def test_the_age_of_the_queue_is_that_of_its_first_job(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """It is 0 if no job waits."""
    assert (await read_samples(client))[HEAD_AGE, ()] == 0
    for age_s in (3600, 60):
        job_id = (await client.post("/generate", json={"prompt": "x"})).json()["id"]
        key = redis_keys.job(job_id)
        spec = JobSpec.model_validate_json(await store.hget(key, "spec") or "")
        spec.created_at = now() - timedelta(seconds=age_s)
        await store.hset(key, "spec", spec.to_json())
    assert 3600 <= (await read_samples(client))[HEAD_AGE, ()] < 3660


async def test_the_process_describes_itself(alone: httpx.AsyncClient) -> None:
    """Version, start time and memory have the names that Prometheus' own clients use."""
    samples = await read_samples(alone)
    labels = (("component", "service"), ("version", version("unclip-service")))
    assert samples["unclip_build_info", labels] == 1
    assert samples["process_start_time_seconds", ()] > 0
    assert samples["process_resident_memory_bytes", ()] > 0


async def test_requests_are_counted_by_route(alone: httpx.AsyncClient) -> None:
    """Paths and methods that clients make up do not add labels."""
    for index in range(5):
        await alone.get(f"/nothing/{index}")
        await alone.get(f"/jobs/{'x' * 101}{index}")
        await alone.request(f"METHOD{index}", "/generate")
        await alone.request(f"METHOD{index}", f"/nothing/{index}")
    await alone.post("/generate", content=b"{", headers={"content-type": "application/json"})
    samples = await read_samples_of(alone, "unclip_http_requests_total")
    counts = {}
    for labels, value in samples.items():
        names = dict(labels)
        counts[names["method"], names["route"], names["status"]] = value
    assert counts == {
        ("unknown", "unknown", "404"): 10,
        ("GET", "/jobs/{job_id}", "422"): 5,
        ("unknown", "/generate", "405"): 5,
        ("POST", "/generate", "400"): 1,
    }


async def test_without_redis_its_state_is_missing(alone: httpx.AsyncClient) -> None:
    """unclip_redis_up is 0, and metrics of Redis are left out rather than 0."""
    samples = await read_samples(alone)
    assert samples["unclip_redis_up", ()] == 0
    names = {name for name, _ in samples}
    assert "unclip_queue_jobs" not in names
    assert "unclip_workers_alive" not in names
    assert "unclip_jobs_ended_total" not in names


async def test_each_outcome_of_a_webhook_starts_at_zero(alone: httpx.AsyncClient) -> None:
    """A series that began with its first event would have no rate, so no alert would fire."""
    text = (await alone.get("/metrics")).text
    for outcome in ("delivered", "failed", "given_up", "refused", "expired"):
        assert f'unclip_webhook_attempts_total{{outcome="{outcome}"}} 0.0' in text


def test_a_checkout_that_is_not_installed_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its version is unknown."""

    def find_none(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("infra.version.version", find_none)
    assert b'version="unknown"' in generate_latest(Metrics().registry)
