"""`DELETE /jobs/{id}`: cancellation of jobs."""

from __future__ import annotations

import io

import httpx
import pytest
import redis.asyncio
from PIL import Image
from support.service_jobs import CUBE, as_worker, submit

from contracts import redis_keys
from contracts.jobs import Progress
from devtools.redis_server import RedisServer
from worker.jobs.record import JobRepository

pytestmark = pytest.mark.anyio
HALF = Progress(stage="prior", step=1, steps=2, fraction=0.5)


async def test_a_waiting_job_leaves_the_queue(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """Nothing of it stays in RQ, later jobs move up, and the queue has room again."""
    ids = [await submit(client) for _ in range(3)]
    response = await client.delete(f"/jobs/{ids[0]}")
    assert response.status_code == 200
    assert response.json()["status"] == "cancelled"
    assert response.json()["finished_at"]
    jobs = [(await client.get(f"/jobs/{job_id}")).json() for job_id in ids]
    assert [job["queue_position"] for job in jobs] == [None, 0, 1]
    assert not await store.exists(f"rq:job:{ids[0]}")
    assert await store.hgetall(redis_keys.OUTCOMES) == {b"generate:cancelled": b"1"}
    assert (await client.post("/generate", json=CUBE)).status_code == 202


async def test_a_worker_cannot_change_a_cancelled_job(
    client: httpx.AsyncClient, redis_server: RedisServer
) -> None:
    """It can neither start nor end it, so a cancelled job has no images."""
    job_id = await submit(client)
    await client.delete(f"/jobs/{job_id}")
    changes: list[bool] = []

    def act(jobs: JobRepository) -> None:
        changes.append(jobs.start({}))
        changes.append(jobs.update_progress(HALF))
        changes.append(jobs.fail("internal", "late"))

    await as_worker(redis_server, job_id, act)
    assert changes == [False, False, False]
    assert (await client.get(f"/jobs/{job_id}")).json()["status"] == "cancelled"


async def test_an_ended_job_does_not_change(
    client: httpx.AsyncClient, redis_server: RedisServer
) -> None:
    """The response is 200 with the job's status."""
    job_id = await submit(client)
    await as_worker(redis_server, job_id, lambda jobs: jobs.fail("internal", "why"))
    response = await client.delete(f"/jobs/{job_id}")
    assert response.status_code == 200
    assert response.json()["status"] == "failed"


async def test_a_missing_job_is_404(client: httpx.AsyncClient) -> None:
    """There is nothing to cancel."""
    assert (await client.delete("/jobs/missing")).status_code == 404


async def test_input_images_are_deleted(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """An uploaded image is deleted with its job."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    response = await client.post("/variations", files={"image": buffer.getvalue()})
    assert response.status_code == 202
    job_id = response.json()["id"]
    assert await store.exists(redis_keys.input_image(job_id, "image"))
    await client.delete(f"/jobs/{job_id}")
    assert not await store.exists(redis_keys.input_image(job_id, "image"))
