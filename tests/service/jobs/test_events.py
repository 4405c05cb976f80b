"""Events of a job, as they are heard over HTTP and by many at once, on a real Redis."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import Any

import httpx
import pytest
import redis
import redis.asyncio

from contracts import redis_keys
from contracts.jobs import Preview, Progress, WorkerHeartbeat, now, written
from devtools.redis_server import RedisServer
from service.jobs.events import Event, Events
from worker.jobs.record import JobRepository

pytestmark = pytest.mark.anyio
CUBE = {"prompt": "a red cube", "seed": 5}
LONG_S = 60.0
RUNNING = written(operation="generate", status="running", request={}, created_at=now())


def step(number: int) -> Progress:
    return Progress(stage="prior", step=number, steps=4, fraction=number / 4)


def record(server: RedisServer, job_id: str) -> JobRepository:
    return JobRepository(redis.Redis.from_url(server.url), job_id, 100)


def told(text: str) -> list[dict[str, Any]]:
    """The events of a text/event-stream: id, event, data."""
    blocks = [
        dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        for block in text.split("\n\n")
    ]
    return [block | {"data": json.loads(block["data"])} for block in blocks if "event" in block]


async def posted(client: httpx.AsyncClient) -> str:
    return str((await client.post("/generate", json=CUBE)).json()["id"])


async def test_a_job_is_followed_to_its_end(
    client: httpx.AsyncClient, redis_server: RedisServer
) -> None:
    """Progress, previews and the end, in order, each with the id that resumes after it; the answer ends with the job."""
    job_id = await posted(client)
    listening = asyncio.create_task(client.get(f"/jobs/{job_id}/events"))
    job = record(redis_server, job_id)
    while not await asyncio.to_thread(job.watched):  # so that the worker knows that somebody looks
        await asyncio.sleep(0.02)
    await asyncio.to_thread(job.start, {})
    for number in (1, 2):
        await asyncio.to_thread(job.progress, step(number))
    await asyncio.to_thread(
        job.previews, [Preview(index=0, image="data:image/webp;base64,AA==")], step(2)
    )
    await asyncio.to_thread(job.fail, "internal", "why")
    answer = await asyncio.wait_for(listening, LONG_S)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    events = [event for event in told(answer.text) if event["event"] != "queued"]
    assert [event["event"] for event in events] == ["progress", "progress", "preview", "ended"]
    assert events[1]["data"] == step(2).model_dump()
    assert events[3]["data"] == {"status": "failed"}
    assert (
        events[2]["data"]
        == {"index": 0, "image": "data:image/webp;base64,AA=="} | step(2).model_dump()
    )

    again = await client.get(
        f"/jobs/{job_id}/events?previews=false", headers={"last-event-id": events[0]["id"]}
    )
    assert told(again.text) == [events[1], events[3]]
    assert (
        told(
            (
                await client.get(
                    f"/jobs/{job_id}/events", headers={"last-event-id": events[3]["id"]}
                )
            ).text
        )
        == []
    )


async def test_a_waiting_job_is_told_its_place_and_when(
    client: httpx.AsyncClient, redis_server: RedisServer, store: Any
) -> None:
    """By Little's law: two workers' five slots, jobs of 10 s, one before it: its own 4 s and a fifth of 10 s."""
    for name, slots in (("a", 2), ("b", 3)):
        await store.sadd(redis_keys.WORKERS, name)
        await store.set(
            redis_keys.worker(name), WorkerHeartbeat(pid=1, slots=slots).model_dump_json()
        )
    await store.hset(
        redis_keys.MEAN_DURATIONS,
        mapping={
            redis_keys.mean_duration("any", None): "10",
            redis_keys.mean_duration("generate", None): "4",
        },
    )
    first = await posted(client)
    second = await posted(client)
    job = (await client.get(f"/jobs/{second}")).json()
    assert (job["queue_position"], job["eta_seconds"]) == (1, 6.0)
    listening = asyncio.create_task(client.get(f"/jobs/{second}/events"))
    while not await asyncio.to_thread(record(redis_server, second).watched):
        await asyncio.sleep(0.02)
    await asyncio.sleep(1.5)  # a turn without news
    await client.delete(f"/jobs/{first}")
    await asyncio.sleep(2.5)
    await client.delete(f"/jobs/{second}")
    events = told((await asyncio.wait_for(listening, LONG_S)).text)
    assert [event["data"] for event in events] == [
        {"queue_position": 1, "eta_seconds": 6.0},
        {"queue_position": 0, "eta_seconds": 4.0},
        {"status": "cancelled"},
    ]


async def test_many_listeners_share_one_reader(
    redis_server: RedisServer, store: redis.asyncio.Redis
) -> None:
    """200 of them, some late, all hear everything once and in order; Redis sees one blocked reader."""
    await store.hset(redis_keys.job("j"), mapping=RUNNING)
    events = Events(store)
    job = record(redis_server, "j")

    async def listen(after: str = "0-0") -> list[Event]:
        async with aclosing(events.listen("j", after)) as heard:
            return [event async for event in heard]

    early = [asyncio.create_task(listen()) for _ in range(150)]
    await asyncio.sleep(0.3)
    for number in range(3):
        await asyncio.to_thread(job.progress, step(number))
    blocked = [client for client in await store.client_list() if client["cmd"] == "xread"]
    late = [asyncio.create_task(listen()) for _ in range(50)]
    await asyncio.to_thread(job.progress, step(3))
    await asyncio.to_thread(job.fail, "internal", "why")
    heard = await asyncio.wait_for(asyncio.gather(*early, *late), LONG_S)
    assert len(blocked) == 1
    assert {tuple(json.loads(event.data).get("step") for event in one) for one in heard} == {
        (0, 1, 2, 3, None)
    }
    assert len({tuple(event.id for event in one) for one in heard}) == 1
    await events.close()


async def test_a_reader_ends_with_its_last_listener(store: redis.asyncio.Redis) -> None:
    """Nobody reads for nobody; who comes after gets a new reader."""
    await store.hset(redis_keys.job("j"), mapping=RUNNING)
    events = Events(store)
    for _ in range(2):
        async with aclosing(events.listen("j")) as heard:
            waiting = asyncio.ensure_future(anext(heard))
            await asyncio.sleep(0.1)
            assert len(events._readers) == 1
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        assert events._readers == {}
    await events.close()


async def test_listeners_of_a_job_that_vanishes_are_let_go(store: redis.asyncio.Redis) -> None:
    """Its record expired, or Redis was emptied: the stream ends instead of waiting for ever."""
    await store.hset(redis_keys.job("j"), mapping=RUNNING)
    events = Events(store)

    async def listen() -> list[Event]:
        async with aclosing(events.listen("j")) as heard:
            return [event async for event in heard]

    listening = asyncio.create_task(listen())
    await asyncio.sleep(0.1)
    await store.delete(redis_keys.job("j"))
    assert await asyncio.wait_for(listening, LONG_S) == []
    await events.close()


async def test_listening_outlives_redis(
    redis_server: RedisServer, client: httpx.AsyncClient
) -> None:
    """It goes away and comes back: what happens then is heard."""
    job_id = await posted(client)
    listening = asyncio.create_task(client.get(f"/jobs/{job_id}/events?previews=false"))
    await asyncio.sleep(0.3)
    await asyncio.to_thread(redis_server.stop)
    await asyncio.sleep(0.5)
    await asyncio.to_thread(redis_server.start)
    await asyncio.to_thread(record(redis_server, job_id).fail, "internal", "why")
    assert told((await asyncio.wait_for(listening, LONG_S)).text)[-1]["event"] == "ended"


@pytest.mark.parametrize("bad", ["x", "1", "-1", "1-2-3", "9" * 25 + "-0"])
async def test_a_last_event_id_that_is_none_is_refused(client: httpx.AsyncClient, bad: str) -> None:
    """422 that names the header."""
    answer = await client.get(
        f"/jobs/{await posted(client)}/events", headers={"last-event-id": bad}
    )
    assert answer.status_code == 422
    assert "last-event-id" in answer.json()["errors"][0]["field"]


class TestCancel:
    """DELETE /jobs/{id}."""

    async def test_a_waiting_job_leaves_the_queue(
        self, client: httpx.AsyncClient, store: redis.asyncio.Redis
    ) -> None:
        """It is cancelled, nothing of it is left in RQ, others move up, and its place in the bounded queue is free."""
        first, second, third = [await posted(client) for _ in range(3)]
        answer = await client.delete(f"/jobs/{first}")
        assert answer.status_code == 200
        assert answer.json()["status"] == "cancelled"
        assert answer.json()["finished_at"]
        assert [
            (await client.get(f"/jobs/{one}")).json()["queue_position"]
            for one in (first, second, third)
        ] == [None, 0, 1]
        assert not await store.exists(f"rq:job:{first}")
        assert await store.hgetall(redis_keys.OUTCOMES) == {b"generate:cancelled": b"1"}
        assert (await client.post("/generate", json=CUBE)).status_code == 202

    async def test_a_worker_cannot_change_it_any_more(
        self, client: httpx.AsyncClient, redis_server: RedisServer
    ) -> None:
        """Neither begin it nor end it, so a cancelled job has no images."""
        job_id = await posted(client)
        await client.delete(f"/jobs/{job_id}")
        job = record(redis_server, job_id)
        assert not job.start({})
        assert not job.progress(step(1))
        assert not job.fail("internal", "late")
        assert (await client.get(f"/jobs/{job_id}")).json()["status"] == "cancelled"

    async def test_an_ended_job_stays_as_it_is(
        self, client: httpx.AsyncClient, redis_server: RedisServer
    ) -> None:
        """200 with its status: cancelling came too late, or was done before."""
        job_id = await posted(client)
        record(redis_server, job_id).fail("internal", "why")
        assert (await client.delete(f"/jobs/{job_id}")).json()["status"] == "failed"
        assert (await client.delete("/jobs/nobody")).status_code == 404

    async def test_its_images_go_with_it(
        self, client: httpx.AsyncClient, store: redis.asyncio.Redis, tmp_path: Any
    ) -> None:
        """What was uploaded for it is not kept."""
        from PIL import Image

        Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
        answer = await client.post(
            "/variations", files={"image": (tmp_path / "a.png").read_bytes()}
        )
        assert answer.status_code == 202
        assert await store.exists(redis_keys.input_image(answer.json()["id"], "image"))
        await client.delete(f"/jobs/{answer.json()['id']}")
        assert not await store.exists(redis_keys.input_image(answer.json()["id"], "image"))


async def test_jobs_wait_in_order_of_priority(serve: Any, store: redis.asyncio.Redis) -> None:
    """Higher first, and among equals the older; a job that is tried again goes before its equals."""
    async with serve() as client:
        ids = {}
        for name, priority in zip("abcdefgh", (0, 5, 0, -3, 10, 5, -3, 0), strict=True):
            ids[
                (await client.post("/generate", json=CUBE | {"priority": priority})).json()["id"]
            ] = name
        waiting = [ids[one.decode()] for one in await store.lrange(redis_keys.QUEUE_LIST, 0, -1)]
        assert "".join(waiting) == "ebfachdg"
        job = (
            await client.get(f"/jobs/{next(one for one, name in ids.items() if name == 'd')}")
        ).json()
        assert job["priority"] == -3
        assert "priority" not in job["parameters"]
        assert (await client.post("/generate", json=CUBE | {"priority": 11})).status_code == 422
