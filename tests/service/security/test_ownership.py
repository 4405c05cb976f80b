"""A job belongs to the API key that submitted it."""

from __future__ import annotations

import asyncio
import io

import httpx
import pytest
import redis
from fastapi import APIRouter
from PIL import Image
from support.service.http_jobs import PNG, succeed_job
from support.service.keys import CUBE, GUARDED, MISSING_ID, bearer, key_id

from contracts import redis_keys
from devtools.redis_server import RedisServer
from service.app import create_app
from service.dependencies import JobDep
from service.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def ann(connection: redis.Redis) -> dict[str, str]:
    return bearer(connection, "ann")


@pytest.fixture
def bob(connection: redis.Redis) -> dict[str, str]:
    return bearer(connection, "bob")


async def submit(client: httpx.AsyncClient, header: dict[str, str]) -> str:
    answer = await client.post("/generate", json=CUBE, headers=header)
    assert answer.status_code == 202
    return str(answer.json()["id"])


@pytest.mark.parametrize(("method", "path"), [route for route in GUARDED if "{id}" in route[1]])
async def test_a_job_of_another_key_is_404(
    guarded: httpx.AsyncClient,
    ann: dict[str, str],
    bob: dict[str, str],
    redis_server: RedisServer,
    method: str,
    path: str,
) -> None:
    """In the words for a missing job, and the request has no effect."""
    job_id = await submit(guarded, ann)
    answer = await guarded.request(method, path.format(id=job_id), headers=bob)
    missing = await guarded.request(method, path.format(id=MISSING_ID), headers=bob)
    assert answer.status_code == 404
    assert missing.status_code == 404
    assert answer.json()["detail"].replace(job_id, MISSING_ID) == missing.json()["detail"]
    assert (await guarded.get(f"/jobs/{job_id}", headers=ann)).json()["status"] == "queued"


async def test_results_of_another_key_are_404(
    guarded: httpx.AsyncClient, ann: dict[str, str], bob: dict[str, str], redis_server: RedisServer
) -> None:
    """Also with a matching ETag, and for events."""
    job_id = await submit(guarded, ann)
    await asyncio.to_thread(succeed_job, redis_server.url, job_id)
    path = f"/jobs/{job_id}/images/0.png"
    assert (await guarded.get(path, headers=ann)).content == PNG
    condition = {"if-none-match": f'"{job_id}-0"'}
    assert (await guarded.get(path, headers=bob | condition)).status_code == 404
    assert (await guarded.get(f"/jobs/{job_id}/events", headers=bob)).status_code == 404
    assert "ended" in (await guarded.get(f"/jobs/{job_id}/events", headers=ann)).text


async def test_the_list_shows_own_jobs(
    guarded: httpx.AsyncClient, ann: dict[str, str], bob: dict[str, str]
) -> None:
    """The latest first."""
    first = await submit(guarded, ann)
    second = await submit(guarded, bob)
    third = await submit(guarded, ann)
    for header, ids in ((ann, [third, first]), (bob, [second])):
        jobs = (await guarded.get("/jobs", headers=header)).json()["jobs"]
        assert [job["id"] for job in jobs] == ids


async def test_jobs_without_an_owner_belong_to_no_key(
    client: httpx.AsyncClient, guarded: httpx.AsyncClient, ann: dict[str, str]
) -> None:
    """They were submitted before keys were required."""
    answer = await client.post("/generate", json=CUBE)
    job_id = answer.json()["id"]
    assert (await guarded.get(f"/jobs/{job_id}", headers=ann)).status_code == 404


async def test_an_idempotency_key_is_per_api_key(
    guarded: httpx.AsyncClient, ann: dict[str, str], bob: dict[str, str]
) -> None:
    """The same text of another API key starts another job."""
    key = {"idempotency-key": "image-1"}
    first = await guarded.post("/generate", json={"prompt": "a"}, headers=ann | key)
    repeated = await guarded.post("/generate", json={"prompt": "a"}, headers=ann | key)
    other = await guarded.post("/generate", json={"prompt": "b"}, headers=bob | key)
    assert first.json()["id"] == repeated.json()["id"]
    assert first.json()["id"] != other.json()["id"]


async def test_an_image_of_another_key_is_no_input(
    guarded: httpx.AsyncClient, ann: dict[str, str], bob: dict[str, str], redis_server: RedisServer
) -> None:
    """In the words for a missing image."""
    job_id = await submit(guarded, ann)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    await asyncio.to_thread(succeed_job, redis_server.url, job_id, buffer.getvalue())
    body = {"image": {"job": job_id, "index": 0}}
    assert (await guarded.post("/variations", json=body, headers=ann)).status_code == 202
    answer = await guarded.post("/variations", json=body, headers=bob)
    assert answer.status_code == 422
    assert f"there is no image 0 of a job '{job_id}'" in answer.json()["detail"]


async def test_added_routes_are_guarded(
    redis_server: RedisServer, ann: dict[str, str], bob: dict[str, str]
) -> None:
    """A router needs no code for the key, and `JobDep` checks the owner."""
    app = create_app(Settings(redis_url=redis_server.url, api_keys="required"))
    router = APIRouter()

    @router.get("/v1/added/{job_id}")
    async def added(job: JobDep) -> str:
        return job.record.id

    app.include_router(router)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        job_id = await submit(client, ann)
        for header, status in (({}, 401), (bob, 404), (ann, 200)):
            answer = await client.get(f"/v1/added/{job_id}", headers=header)
            assert answer.status_code == status


async def test_an_image_url_opens_the_images_of_its_job(
    guarded: httpx.AsyncClient, ann: dict[str, str], redis_server: RedisServer
) -> None:
    """Without a key, for browsers: by the URL that the owner received, and by no other."""
    first = await submit(guarded, ann)
    second = await submit(guarded, ann)
    for job_id in (first, second):
        await asyncio.to_thread(succeed_job, redis_server.url, job_id)
    url = (await guarded.get(f"/jobs/{first}", headers=ann)).json()["images"][0]["url"]
    assert (await guarded.get(url)).content == PNG
    for other in (
        url.replace(first, second),
        url[:-1],
        url.partition("?")[0],
        url.replace("images/0.png", "events"),
    ):
        assert (await guarded.get(other)).status_code == 401
    assert (await guarded.delete(url.replace("/images/0.png", ""))).status_code == 401


async def test_the_owner_is_the_keys_id(
    guarded: httpx.AsyncClient, ann: dict[str, str], connection: redis.Redis
) -> None:
    """The list of its jobs is under that id."""
    await submit(guarded, ann)
    assert connection.zcard(redis_keys.listing(key_id(ann))) == 1
