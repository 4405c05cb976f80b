"""Events of a job over HTTP, and with many listeners, on a real Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import httpx
import pytest
import redis.asyncio
from support.service_jobs import as_worker, submit

from contracts import redis_keys
from contracts.jobs import JobRecord, JobSpec, Preview, Progress, WorkerHeartbeat, now
from contracts.operations import GenerateRequest
from devtools.redis_server import RedisServer
from service.jobs.events import Event, Events

pytestmark = pytest.mark.anyio
TIMEOUT_S = 60.0
PREVIEW = Preview(index=0, image="data:image/webp;base64,AA==")


def prior_step(number: int) -> Progress:
    """Return the progress after a step of the prior."""
    return Progress(stage="prior", step=number, steps=4, fraction=number / 4)


def parse_sse(text: str) -> list[dict[str, Any]]:
    """Return the events of a text/event-stream with id, event and data."""
    events = []
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith(":")]
        event: dict[str, Any] = dict(line.split(": ", 1) for line in lines)
        if "event" in event:
            events.append(event | {"data": json.loads(event["data"])})
    return events


async def wait_for_preview_listener(store: redis.asyncio.Redis, job_id: str) -> None:
    """Wait until a listener wants previews of the job."""
    while not await store.exists(redis_keys.preview_subscribed(job_id)):
        await asyncio.sleep(0.02)


@pytest.fixture
async def running_job(store: redis.asyncio.Redis) -> str:
    """Return the id of a running job that has no events."""
    spec = JobSpec(operation="generate", request=GenerateRequest(prompt="a"), created_at=now())
    await store.hset(redis_keys.job("j"), mapping=JobRecord("j", spec, "running").to_hash())
    return "j"


@pytest.fixture
async def events(store: redis.asyncio.Redis) -> AsyncIterator[Events]:
    """Return the readers of a service."""
    events = Events(store)
    yield events
    await events.close()


async def collect(events: Events, job_id: str) -> list[Event]:
    """Return all events of a job when it has ended."""
    async with aclosing(events.listen(job_id)) as listener:
        return [event async for event in listener]


async def test_a_job_is_followed_to_its_end(
    client: httpx.AsyncClient, store: redis.asyncio.Redis, redis_server: RedisServer
) -> None:
    """Progress, previews and the end come in order, and the response ends with the job."""
    job_id = await submit(client)
    listening = asyncio.create_task(client.get(f"/jobs/{job_id}/events"))
    await wait_for_preview_listener(store, job_id)
    await as_worker(redis_server, job_id, lambda jobs: jobs.start({}))
    for number in (1, 2):
        step = prior_step(number)
        await as_worker(redis_server, job_id, lambda jobs, step=step: jobs.update_progress(step))
    step = prior_step(2)
    await as_worker(redis_server, job_id, lambda jobs: jobs.publish_previews([PREVIEW], step))
    await as_worker(redis_server, job_id, lambda jobs: jobs.fail("internal", "why"))
    response = await asyncio.wait_for(listening, TIMEOUT_S)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"
    received = [event for event in parse_sse(response.text) if event["event"] != "queued"]
    names = [event["event"] for event in received]
    assert names == ["progress", "progress", "preview", "ended"]
    assert received[1]["data"] == step.model_dump()
    assert received[2]["data"] == PREVIEW.model_dump() | step.model_dump()
    assert received[3]["data"] == {"status": "failed"}


async def test_a_client_resumes_after_the_last_event(
    client: httpx.AsyncClient, redis_server: RedisServer
) -> None:
    """Last-Event-ID skips what the client has, and previews are optional."""
    job_id = await submit(client)
    path = f"/jobs/{job_id}/events"
    step = prior_step(1)
    for _ in range(2):
        await as_worker(redis_server, job_id, lambda jobs: jobs.update_progress(step))
    await as_worker(redis_server, job_id, lambda jobs: jobs.publish_previews([PREVIEW], step))
    await as_worker(redis_server, job_id, lambda jobs: jobs.fail("internal", "why"))
    received = parse_sse((await client.get(path)).text)
    assert [event["event"] for event in received] == ["progress", "progress", "preview", "ended"]
    headers = {"last-event-id": received[0]["id"]}
    resumed = await client.get(path, params={"previews": False}, headers=headers)
    assert parse_sse(resumed.text) == [received[1], received[3]]
    headers = {"last-event-id": received[3]["id"]}
    assert parse_sse((await client.get(path, headers=headers)).text) == []


async def test_a_waiting_job_reports_its_place(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """With 5 slots, jobs of 10 s and one job before it, the ETA is its own 4 s + 10 s / 5."""
    for name, slots in (("a", 2), ("b", 3)):
        heartbeat = WorkerHeartbeat(pid=1, slots=slots).model_dump_json()
        await store.sadd(redis_keys.WORKERS, name)
        await store.set(redis_keys.worker(name), heartbeat)
    durations = {
        redis_keys.mean_duration("any", None): "10",
        redis_keys.mean_duration("generate", None): "4",
    }
    await store.hset(redis_keys.MEAN_DURATIONS, mapping=durations)
    first = await submit(client)
    second = await submit(client)
    job = (await client.get(f"/jobs/{second}")).json()
    assert job["queue_position"] == 1
    assert job["eta_seconds"] == 6.0
    listening = asyncio.create_task(client.get(f"/jobs/{second}/events"))
    await wait_for_preview_listener(store, second)
    # A read of the stream returns without events before each report.
    await asyncio.sleep(1.5)
    await client.delete(f"/jobs/{first}")
    await asyncio.sleep(2.5)
    await client.delete(f"/jobs/{second}")
    received = parse_sse((await asyncio.wait_for(listening, TIMEOUT_S)).text)
    assert [event["data"] for event in received] == [
        {"queue_position": 1, "eta_seconds": 6.0},
        {"queue_position": 0, "eta_seconds": 4.0},
        {"status": "cancelled"},
    ]


async def test_many_listeners_share_one_reader(
    redis_server: RedisServer, store: redis.asyncio.Redis, events: Events, running_job: str
) -> None:
    """Each of 200 listeners, late ones too, gets every event once and in order."""
    early = [asyncio.create_task(collect(events, running_job)) for _ in range(150)]
    await asyncio.sleep(0.3)
    for number in range(3):
        step = prior_step(number)
        await as_worker(
            redis_server, running_job, lambda jobs, step=step: jobs.update_progress(step)
        )
    blocked = [client for client in await store.client_list() if client["cmd"] == "xread"]
    late = [asyncio.create_task(collect(events, running_job)) for _ in range(50)]
    await as_worker(redis_server, running_job, lambda jobs: jobs.update_progress(prior_step(3)))
    await as_worker(redis_server, running_job, lambda jobs: jobs.fail("internal", "why"))
    received = await asyncio.wait_for(asyncio.gather(*early, *late), TIMEOUT_S)
    assert len(blocked) == 1
    steps = {tuple(json.loads(event.data).get("step") for event in one) for one in received}
    assert steps == {(0, 1, 2, 3, None)}
    assert len({tuple(event.id for event in one) for one in received}) == 1


async def test_a_reader_stops_with_its_last_listener(events: Events, running_job: str) -> None:
    """A listener that comes later gets a new reader."""
    for _ in range(2):
        async with aclosing(events.listen(running_job)) as listener:
            upcoming = asyncio.ensure_future(anext(listener))
            await asyncio.sleep(0.1)
            assert len(events._readers) == 1
            upcoming.cancel()
            await asyncio.gather(upcoming, return_exceptions=True)
        assert events._readers == {}


async def test_listeners_of_a_deleted_job_are_released(
    store: redis.asyncio.Redis, events: Events, running_job: str
) -> None:
    """If the record expires or Redis is emptied, the stream ends."""
    listening = asyncio.create_task(collect(events, running_job))
    await asyncio.sleep(0.1)
    await store.delete(redis_keys.job(running_job))
    assert await asyncio.wait_for(listening, TIMEOUT_S) == []


async def test_listeners_survive_a_restart_of_redis(
    redis_server: RedisServer, client: httpx.AsyncClient
) -> None:
    """Events after the restart arrive."""
    job_id = await submit(client)
    path = f"/jobs/{job_id}/events?previews=false"
    listening = asyncio.create_task(client.get(path))
    await asyncio.sleep(0.3)
    await asyncio.to_thread(redis_server.stop)
    await asyncio.sleep(0.5)
    await asyncio.to_thread(redis_server.start)
    await as_worker(redis_server, job_id, lambda jobs: jobs.fail("internal", "why"))
    received = parse_sse((await asyncio.wait_for(listening, TIMEOUT_S)).text)
    assert received[-1]["event"] == "ended"


@pytest.mark.parametrize("value", ["x", "1", "-1", "1-2-3", "9" * 25 + "-0"])
async def test_an_invalid_last_event_id_is_422(client: httpx.AsyncClient, value: str) -> None:
    """The problem names the header."""
    path = f"/jobs/{await submit(client)}/events"
    response = await client.get(path, headers={"last-event-id": value})
    assert response.status_code == 422
    assert "last-event-id" in response.json()["errors"][0]["field"]
