"""`Prefer: wait`: the response comes when the job has ended or the wait is over."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
import redis
import redis.asyncio
from support.service_jobs import CUBE, PNG, as_worker, succeed

from contracts import redis_keys
from devtools.redis_server import RedisServer
from worker.jobs.record import JobRepository

pytestmark = pytest.mark.anyio
Act = Callable[[JobRepository], object]
Post = Callable[..., Awaitable[httpx.Response]]


async def first_waiting_job(store: redis.asyncio.Redis) -> str:
    """Return the id of the first job in the queue, as soon as there is one."""
    while not (ids := await store.lrange(redis_keys.QUEUE_LIST, 0, -1)):
        await asyncio.sleep(0.01)
    return str(ids[0].decode())


@pytest.fixture
def post_and_act(
    client: httpx.AsyncClient, store: redis.asyncio.Redis, redis_server: RedisServer
) -> Post:
    """Return a function that posts a request and changes its job as a worker meanwhile."""

    async def post(act: Act, **headers: str) -> httpx.Response:
        response = asyncio.create_task(client.post("/generate", json=CUBE, headers=headers))
        await as_worker(redis_server, await first_waiting_job(store), act, delay_s=0.2)
        return await response

    return post


async def test_the_response_is_the_ended_job(post_and_act: Post) -> None:
    """It comes when the job ends, with the wait that was applied."""
    response = await post_and_act(succeed, prefer="wait=20")
    assert response.status_code == 200
    assert response.json()["status"] == "succeeded"
    assert response.headers["preference-applied"] == "wait=20"
    assert response.headers["location"].endswith(response.json()["id"])
    assert response.elapsed.total_seconds() < 15


async def test_the_response_is_the_image_if_accepted(post_and_act: Post) -> None:
    """With Accept: image/png the body is the PNG; Location is the job's URL."""
    response = await post_and_act(succeed, prefer="wait=20", accept="image/png")
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    assert response.content == PNG
    assert "/jobs/" in response.headers["location"]
    assert response.headers["vary"] == "Accept, Prefer"


@pytest.mark.parametrize(("kind", "status"), [("invalid", 422), ("internal", 500)])
async def test_a_failed_job_has_no_image(post_and_act: Post, kind: Any, status: int) -> None:
    """The response is a problem with the job's own reason."""
    response = await post_and_act(
        lambda jobs: jobs.fail(kind, "because"), prefer="wait=20", accept="image/png"
    )
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["detail"] == "because"
    assert "/jobs/" in response.headers["location"]


async def test_a_failed_job_is_200_as_json(post_and_act: Post) -> None:
    """The request succeeded; it is the job that failed."""
    response = await post_and_act(lambda jobs: jobs.fail("internal", "because"), prefer="wait=20")
    assert response.status_code == 200
    assert response.json()["status"] == "failed"
    assert response.json()["error"]["detail"] == "because"


@pytest.mark.parametrize("accept", ["application/json", "image/png"])
async def test_a_job_that_does_not_end_in_time_is_202(
    client: httpx.AsyncClient, accept: str
) -> None:
    """The response is JSON and comes after the wait."""
    headers = {"prefer": "wait=0.5", "accept": accept}
    response = await client.post("/generate", json=CUBE, headers=headers)
    assert response.status_code == 202
    assert response.json()["status"] == "queued"
    assert response.headers["preference-applied"] == "wait=0.5"
    assert 0.5 <= response.elapsed.total_seconds() < 15


async def test_the_wait_is_limited(serve: Any) -> None:
    """UNCLIP_MAX_WAIT_S limits it, and the response says so."""
    async with serve(max_wait_s=0.2) as client:
        response = await client.post("/generate", json=CUBE, headers={"prefer": "wait=600"})
    assert response.status_code == 202
    assert response.headers["preference-applied"] == "wait=0.2"


async def test_a_second_prefer_header_counts(client: httpx.AsyncClient) -> None:
    """RFC 7240 allows several Prefer headers."""
    headers = [("prefer", "respond-async"), ("prefer", "wait=0")]
    response = await client.post("/generate", json=CUBE, headers=headers)
    assert response.headers["preference-applied"] == "wait=0"


async def test_several_images_are_not_a_png(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """The response is 406, and no job is queued."""
    headers = {"prefer": "wait=1", "accept": "image/png"}
    response = await client.post("/generate", json=CUBE | {"n": 2}, headers=headers)
    assert response.status_code == 406
    assert "this request generates 2" in response.json()["detail"]
    assert await store.llen(redis_keys.QUEUE_LIST) == 0


async def test_a_wait_survives_a_restart_of_redis(
    serve: Any, store: redis.asyncio.Redis, redis_server: RedisServer
) -> None:
    """The client gets the ended job."""
    async with serve() as client:
        post = client.post("/generate", json=CUBE, headers={"prefer": "wait=20"})
        response_task = asyncio.create_task(post)
        job_id = await first_waiting_job(store)
        await asyncio.to_thread(redis_server.stop)
        await asyncio.sleep(1)
        await asyncio.to_thread(redis_server.start)
        await as_worker(redis_server, job_id, succeed)
        response = await response_task
    assert response.status_code == 200
    assert response.json()["status"] == "succeeded"


async def test_without_redis_the_response_has_the_jobs_url(
    serve: Any, store: redis.asyncio.Redis, redis_server: RedisServer
) -> None:
    """The job is accepted, so a client that queries Location does not submit it twice."""
    async with serve() as client:
        post = client.post("/generate", json=CUBE, headers={"prefer": "wait=1.5"})
        response_task = asyncio.create_task(post)
        await first_waiting_job(store)
        await asyncio.to_thread(redis_server.stop)
        response = await response_task
        assert response.status_code == 503
        assert "is accepted" in response.json()["detail"]
        assert response.headers["retry-after"]
        await asyncio.to_thread(redis_server.start)
        job = (await client.get(response.headers["location"])).json()
        assert job["status"] == "queued"


async def test_a_hundred_clients_wait_at_once(
    serve: Any, store: redis.asyncio.Redis, redis_server: RedisServer
) -> None:
    """Each gets its own job, and other requests are not delayed."""
    async with serve() as client:
        headers = {"prefer": "wait=25"}
        posts = [
            asyncio.create_task(client.post("/generate", json=CUBE, headers=headers))
            for _ in range(100)
        ]
        while await store.llen(redis_keys.QUEUE_LIST) < 100:
            await asyncio.sleep(0.05)
        probe = await client.get("/healthz")
        ids = [job_id.decode() for job_id in await store.lrange(redis_keys.QUEUE_LIST, 0, -1)]

        def end_all() -> None:
            with redis.Redis.from_url(redis_server.url) as connection:
                for job_id in ids:
                    succeed(JobRepository(connection, job_id, 100))

        thread = threading.Thread(target=end_all)
        thread.start()
        responses = await asyncio.gather(*posts)
        thread.join()
    assert probe.elapsed.total_seconds() < 10
    assert {response.status_code for response in responses} == {200}
    assert {response.json()["id"] for response in responses} == set(ids)
