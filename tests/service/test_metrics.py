"""What Prometheus is told: valid text, true numbers, and labels that no client can multiply."""

from __future__ import annotations

import httpx
import pytest
import redis.asyncio
from prometheus_client.parser import text_string_to_metric_families

from contracts import keys
from contracts.jobs import Beat

pytestmark = pytest.mark.anyio


async def samples(client: httpx.AsyncClient) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """All samples by name and labels; the text has to parse, and no family may come twice."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(answer.text))
    assert len({family.name for family in families}) == len(families) and all(family.documentation for family in families)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


async def test_jobs_queue_and_workers_are_counted(client: httpx.AsyncClient, store: redis.asyncio.Redis) -> None:
    """From what this process accepted and from what Redis knows; a repeat is no job, and a worker whose beat stopped is none."""
    for key in ("a", "a", "b"):
        await client.post("/generate", json={"prompt": "x"}, headers={"idempotency-key": key})
    await store.hset(keys.OUTCOMES, mapping={"succeeded": 7, "failed": 1})
    await store.sadd(keys.WORKERS, "alive", "dead")
    await store.set(keys.worker("alive"), Beat(pid=1, slots=2).model_dump_json(), ex=10)
    found = await samples(client)
    assert found["unclip_redis_up", ()] == 1
    assert found["unclip_queue_jobs", ()] == 2
    assert found["unclip_workers_alive", ()] == 1
    assert found["unclip_jobs_accepted_total", (("operation", "generate"),)] == 2
    assert found["unclip_jobs_ended_total", (("outcome", "succeeded"),)] == 7
    assert found["unclip_jobs_ended_total", (("outcome", "failed"),)] == 1
    assert await store.smembers(keys.WORKERS) == {b"alive"}


async def test_requests_are_counted_by_route_not_by_path(alone: httpx.AsyncClient) -> None:
    """Whatever paths and methods clients send, the number of labels stays."""
    for index in range(5):
        await alone.get(f"/nothing/{index}")
        await alone.get(f"/jobs/{'x' * 101}{index}")
        await alone.request(f"METHOD{index}", "/generate")
        await alone.request(f"METHOD{index}", f"/nothing/{index}")
    await alone.post("/generate", content=b"{", headers={"content-type": "application/json"})
    counted = {labels: value for (name, labels), value in (await samples(alone)).items() if name == "unclip_http_requests_total"}
    assert {tuple(dict(labels)[name] for name in ("method", "route", "status")): value for labels, value in counted.items()} == {
        ("unknown", "unknown", "404"): 10,
        ("GET", "/jobs/{job_id}", "422"): 5,
        ("unknown", "/generate", "405"): 5,
        ("POST", "/generate", "400"): 1,
    }


async def test_without_redis_the_metrics_say_so(alone: httpx.AsyncClient) -> None:
    """unclip_redis_up is 0, and what only Redis knows is left out rather than 0."""
    found = await samples(alone)
    assert found["unclip_redis_up", ()] == 0
    assert not {name for name, _ in found} & {"unclip_queue_jobs", "unclip_workers_alive", "unclip_jobs_ended_total"}
