"""Submission of jobs on a real Redis: once, in order, and within the limits."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import httpx
import pytest
import redis
import redis.asyncio
from support.service_jobs import CUBE, as_worker, submit, succeed

from contracts import redis_keys
from contracts.fields import PARAMETERS
from contracts.jobs import Progress, WorkerHeartbeat, now
from contracts.operations import GenerateRequest
from devtools.redis_server import RedisServer
from service.jobs.repository import JobRepository
from service.jobs.submit import JobRequest, JobSubmitter
from service.settings import Settings

pytestmark = pytest.mark.anyio
KEY = {"idempotency-key": "mine"}
HALF = Progress(stage="prior", step=1, steps=2, fraction=0.5)


def queued_job(response: httpx.Response, **fields: Any) -> dict[str, Any]:
    """Return the job that a response to CUBE must hold, with changes."""
    job_id = response.json()["id"]
    url = f"http://service.test/jobs/{job_id}"
    parameters = dict.fromkeys(PARAMETERS) | {"prompt": "a red cube", "seed": 5, "n": 1}
    job = dict.fromkeys(("progress", "eta_seconds", "animation", "result", "error"))
    job |= dict.fromkeys(("started_at", "finished_at"))
    return job | {
        "id": job_id,
        "operation": "generate",
        "status": "queued",
        "queue_position": 0,
        "priority": 0,
        "parameters": parameters,
        "warnings": [],
        "images": [],
        "request_id": response.headers["x-request-id"],
        "created_at": response.json()["created_at"],
        "links": {"self": url, "events": f"{url}/events"},
        **fields,
    }


async def test_an_accepted_job_is_returned(client: httpx.AsyncClient) -> None:
    """The response is 202 with Location and all fields of a waiting job."""
    response = await client.post("/generate", json=CUBE)
    assert response.status_code == 202
    job = response.json()
    assert job == queued_job(response)
    assert response.headers["location"] == job["links"]["self"]
    age = now() - datetime.fromisoformat(job["created_at"])
    assert abs(age.total_seconds()) < 20


async def test_an_accepted_job_equals_the_stored_one(client: httpx.AsyncClient) -> None:
    """The response is made from memory, a query from Redis; both are the same."""
    response = await client.post("/generate", json=CUBE | {"n": 2, "priority": 3})
    assert (await client.get(response.headers["location"])).json() == response.json()


async def test_a_job_is_in_rqs_queue(client: httpx.AsyncClient, store: redis.asyncio.Redis) -> None:
    """RQ's own record holds the timeout and retries, and no prompt."""
    job_id = await submit(client)
    assert await store.lrange(redis_keys.QUEUE_LIST, 0, -1) == [job_id.encode()]
    rq_job = await store.hgetall(f"rq:job:{job_id}")
    assert b"red" not in b"".join(rq_job.values())
    assert rq_job[b"timeout"] == b"600"
    assert rq_job[b"retries_left"] == b"3"


async def test_positions_count_from_the_front(client: httpx.AsyncClient) -> None:
    """The first job has position 0."""
    ids = [await submit(client) for _ in range(3)]
    jobs = [(await client.get(f"/jobs/{job_id}")).json() for job_id in ids]
    assert [job["queue_position"] for job in jobs] == [0, 1, 2]


async def test_a_missing_seed_is_chosen(client: httpx.AsyncClient) -> None:
    """A chosen seed is random, returned, and leaves room for all images."""
    responses = [await client.post("/generate", json={"prompt": "a"}) for _ in range(2)]
    first, second = (response.json()["parameters"]["seed"] for response in responses)
    assert first != second
    assert 0 <= first < 2**32 - 9
    assert 0 <= second < 2**32 - 9


async def test_seed_zero_is_a_seed(client: httpx.AsyncClient) -> None:
    """0 does not count as missing."""
    job = (await client.post("/generate", json=CUBE | {"seed": 0})).json()
    assert job["parameters"]["seed"] == 0


async def test_a_running_job_has_progress_and_parameters(
    client: httpx.AsyncClient, redis_server: RedisServer
) -> None:
    """Resolved parameters join those of the request."""
    job_id = await submit(client)
    assert (await client.get(f"/jobs/{job_id}/images/0.png")).status_code == 404
    await as_worker(redis_server, job_id, lambda jobs: jobs.start({"size": 64, "eta": 0.0}))
    await as_worker(redis_server, job_id, lambda jobs: jobs.update_progress(HALF))
    job = (await client.get(f"/jobs/{job_id}")).json()
    assert job["status"] == "running"
    assert job["progress"] == HALF.model_dump()
    assert job["queue_position"] is None
    assert job["parameters"]["size"] == 64
    assert job["parameters"]["prompt"] == "a red cube"
    assert job["started_at"]


async def test_a_succeeded_job_has_images(
    client: httpx.AsyncClient, redis_server: RedisServer
) -> None:
    """The images can be read at their URLs."""
    job_id = await submit(client)
    await as_worker(redis_server, job_id, succeed)
    job = (await client.get(f"/jobs/{job_id}")).json()
    url = f"http://service.test/jobs/{job_id}/images/0.png"
    assert job["status"] == "succeeded"
    assert job["warnings"] == ["truncated"]
    assert job["error"] is None
    assert job["finished_at"]
    assert job["images"] == [{"seed": 5, "width": 64, "height": 64, "url": url}]
    image = await client.get(url)
    assert image.status_code == 200
    assert image.headers["content-type"] == "image/png"
    assert image.content == b"\x89PNG"
    missing = await client.get(f"/jobs/{job_id}/images/1.png")
    assert missing.status_code == 404
    assert "is succeeded and has 1 images; there is none at 1" in missing.json()["detail"]


@pytest.mark.parametrize("path", ["/jobs/missing", "/jobs/missing/images/0.png"])
async def test_a_missing_job_is_404(client: httpx.AsyncClient, path: str) -> None:
    """The problem says when ended jobs are deleted."""
    response = await client.get(path)
    assert response.status_code == 404
    detail = response.json()["detail"]
    assert "no job 'missing'. Ended jobs are deleted after 24 hours" in detail


@pytest.mark.parametrize("path", ["images/-1.png", "images/32.png", "images/one.png"])
async def test_an_invalid_image_index_is_422(client: httpx.AsyncClient, path: str) -> None:
    """An image's index is 0 to 31."""
    response = await client.get(f"/jobs/{await submit(client)}/{path}")
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "path.index"


async def test_links_use_the_public_url(serve: Any) -> None:
    """With UNCLIP_PUBLIC_URL all links begin with it."""
    async with serve(public_url="https://images.example/unclip/") as client:
        response = await client.post("/generate", json=CUBE)
    url = f"https://images.example/unclip/jobs/{response.json()['id']}"
    assert response.headers["location"] == url
    assert response.json()["links"]["self"] == url


async def test_a_full_queue_rejects_jobs(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """A rejected job leaves nothing in Redis, not even its Idempotency-Key."""
    for _ in range(3):
        await submit(client)
    size = await store.dbsize()
    rejected = await client.post("/generate", json=CUBE, headers=KEY)
    assert rejected.status_code == 429
    assert int(rejected.headers["retry-after"]) > 0
    assert rejected.headers["content-type"] == "application/problem+json"
    assert "The queue is full (3 of 3 jobs waiting)" in rejected.json()["detail"]
    assert await store.dbsize() == size
    await store.lpop(redis_keys.QUEUE_LIST)
    assert (await client.post("/generate", json=CUBE, headers=KEY)).status_code == 202


async def test_a_full_queue_estimates_when_to_retry(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """Retry-After follows from mean duration and slots, and is 30 s if nothing was measured."""
    for _ in range(3):
        await submit(client)
    assert (await client.post("/generate", json=CUBE)).headers["retry-after"] == "30"
    heartbeat = WorkerHeartbeat(pid=1, slots=4).model_dump_json()
    await store.sadd(redis_keys.WORKERS, "w")
    await store.set(redis_keys.worker("w"), heartbeat)
    await store.hset(redis_keys.MEAN_DURATIONS, redis_keys.mean_duration("any", None), "50.0")
    assert (await client.post("/generate", json=CUBE)).headers["retry-after"] == "13"


async def test_jobs_wait_in_order_of_priority(serve: Any, store: redis.asyncio.Redis) -> None:
    """Higher priorities come first, and among equals older jobs."""
    names = {}
    async with serve() as client:
        for name, priority in zip("abcdefgh", (0, 5, 0, -3, 10, 5, -3, 0), strict=True):
            names[await submit(client, priority=priority)] = name
    waiting = await store.lrange(redis_keys.QUEUE_LIST, 0, -1)
    assert "".join(names[job_id.decode()] for job_id in waiting) == "ebfachdg"


async def test_the_priority_is_a_field_of_the_job(client: httpx.AsyncClient) -> None:
    """It is not among the parameters, and has bounds."""
    job = (await client.get(f"/jobs/{await submit(client, priority=-3)}")).json()
    assert job["priority"] == -3
    assert "priority" not in job["parameters"]
    rejected = await client.post("/generate", json=CUBE | {"priority": 11})
    assert rejected.status_code == 422


class TestIdempotency:
    """A repeated request with the same Idempotency-Key starts no job."""

    async def test_a_repeat_returns_the_first_job(
        self, client: httpx.AsyncClient, store: redis.asyncio.Redis
    ) -> None:
        """Equal requests may differ in order and in nulls, and may find the queue full."""
        first = await client.post("/generate", json={"prompt": "a", "n": 1}, headers=KEY)
        for _ in range(2):
            await submit(client)
        bodies = (
            {"prompt": "a", "n": 1},
            {"n": 1, "prompt": "a"},
            {"prompt": "a", "size": None},
        )
        for body in bodies:
            repeat = await client.post("/generate", json=body, headers=KEY)
            assert repeat.status_code == 202
            assert repeat.json() == first.json()
            assert repeat.headers["location"] == first.headers["location"]
        assert await store.llen(redis_keys.QUEUE_LIST) == 3

    async def test_another_request_with_the_key_is_rejected(
        self, client: httpx.AsyncClient
    ) -> None:
        """The response is 422."""
        await client.post("/generate", json=CUBE, headers=KEY)
        other = await client.post("/generate", json=CUBE | {"seed": 6}, headers=KEY)
        assert other.status_code == 422
        assert "used for another request" in other.json()["detail"]

    @pytest.mark.parametrize("headers", [{"idempotency-key": "yours"}, {}])
    async def test_another_key_starts_another_job(
        self, client: httpx.AsyncClient, headers: dict[str, str]
    ) -> None:
        """So does a request without a key."""
        first = await client.post("/generate", json=CUBE, headers=KEY)
        other = await client.post("/generate", json=CUBE, headers=headers)
        assert other.json()["id"] != first.json()["id"]

    async def test_concurrent_requests_start_one_job(
        self, serve: Any, store: redis.asyncio.Redis
    ) -> None:
        """Twenty requests at once return the same job."""
        async with serve() as client:
            requests = [client.post("/generate", json=CUBE, headers=KEY) for _ in range(20)]
            responses = await asyncio.gather(*requests)
        assert {response.status_code for response in responses} == {202}
        assert len({response.json()["id"] for response in responses}) == 1
        assert await store.llen(redis_keys.QUEUE_LIST) == 1

    async def test_concurrent_services_start_one_job(
        self, redis_server: RedisServer, store: redis.asyncio.Redis
    ) -> None:
        """Of fifty requests to five services one has a new job."""
        settings = Settings(redis_url=redis_server.url)
        repositories = [JobRepository(settings) for _ in range(5)]
        submitters = [JobSubmitter(settings, jobs) for jobs in repositories]
        request = JobRequest("generate", GenerateRequest(prompt="a red cube"))
        requests = [submitter.submit(request, "mine", None) for submitter in submitters * 10]
        jobs = await asyncio.gather(*requests)
        for repository in repositories:
            await repository.close()
        assert len({job.job_id for job in jobs}) == 1
        assert len([job for job in jobs if job.snapshot is not None]) == 1
        assert await store.llen(redis_keys.QUEUE_LIST) == 1
        assert len(await store.keys("unclip:job:*")) == 1
        assert await store.zcard(redis_keys.listing()) == 1

    async def test_the_key_of_an_expired_job_starts_a_new_one(
        self, client: httpx.AsyncClient, store: redis.asyncio.Redis
    ) -> None:
        """A repeat must not return a job that does not exist."""
        first = await client.post("/generate", json=CUBE, headers=KEY)
        await store.delete(redis_keys.job(first.json()["id"]))
        repeat = await client.post("/generate", json=CUBE, headers=KEY)
        assert repeat.status_code == 202
        assert repeat.json()["id"] != first.json()["id"]

    async def test_the_key_itself_is_not_stored(
        self, client: httpx.AsyncClient, store: redis.asyncio.Redis
    ) -> None:
        """Redis holds only its hash."""
        await client.post("/generate", json=CUBE, headers={"idempotency-key": "secret"})
        (key,) = [name for name in await store.keys("*") if b"idempotency" in name]
        assert b"secret" not in key
        assert b"secret" not in await store.get(key)

    async def test_the_key_expires_with_its_job(
        self, client: httpx.AsyncClient, store: redis.asyncio.Redis, redis_server: RedisServer
    ) -> None:
        """Neither expires while the job waits."""
        job_id = (await client.post("/generate", json=CUBE, headers=KEY)).json()["id"]
        (key,) = [name for name in await store.keys("*") if b"idempotency" in name]
        assert await store.ttl(key) == -1
        assert await store.ttl(redis_keys.job(job_id)) == -1
        await as_worker(redis_server, job_id, succeed)
        assert await store.ttl(key) > 0
        assert 0 <= await store.ttl(redis_keys.job(job_id)) - await store.ttl(key) <= 1

    @pytest.mark.parametrize(
        ("request_fields", "fingerprint"),
        [
            (
                {"prompt": "a red cube", "seed": 5},
                "5bd8bbf21a626d69c78c7922e8091301bae7ab7ecaa961ab8f01027973e6561a",
            ),
            (
                {"z_i": [0.5] * 8, "seed": 1, "size": 64},
                "60d43d0bbd1f63a68b7f2cd4744053bed75e39904a402118b88a5f68f616bf01",
            ),
        ],
    )
    def test_fingerprints_do_not_change(
        self, request_fields: dict[str, Any], fingerprint: str
    ) -> None:
        """Keys in Redis stay valid when the service is updated."""
        request = JobRequest("generate", GenerateRequest(**request_fields))
        assert request.fingerprint() == fingerprint
