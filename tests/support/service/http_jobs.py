"""Jobs that tests submit over HTTP and end in the place of a worker."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import redis

from contracts.jobs import ImageInfo, Progress
from worker.jobs.record import JobRepository

PNG = b"\x89PNG"
LAST = Progress(stage="decoder", step=6, steps=6, fraction=1.0)
TTL_S = 100


async def submit(client: httpx.AsyncClient, **fields: Any) -> str:
    """Submit a job to generate an image, and return its id."""
    answer = await client.post("/generate", json={"prompt": "a red cube", "seed": 5} | fields)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def start_job(redis_url: str, job_id: str) -> None:
    """Start a job as a worker does. Blocking."""
    with redis.Redis.from_url(redis_url) as connection:
        assert JobRepository(connection, job_id, TTL_S).start({"size": 64})


def succeed_job(redis_url: str, job_id: str, *pngs: bytes) -> None:
    """Start a job and end it with these images, or with one, as a worker does. Blocking."""
    contents = pngs or (PNG,)
    infos = [ImageInfo(seed=5 + at, width=64, height=64) for at in range(len(contents))]
    with redis.Redis.from_url(redis_url) as connection:
        job = JobRepository(connection, job_id, TTL_S)
        job.start({"size": 64})
        assert job.succeed(contents, infos, [], LAST)


def fail_job(redis_url: str, job_id: str, detail: str = "no memory", ttl_s: int = TTL_S) -> None:
    """End a job with an internal failure, as a worker does. Blocking."""
    with redis.Redis.from_url(redis_url) as connection:
        assert JobRepository(connection, job_id, ttl_s).fail("internal", detail)


async def submit_and_end(
    client: httpx.AsyncClient, redis_url: str, outcome: str = "succeed", **fields: Any
) -> str:
    """Submit a job, and start it, end it well or fail it. Return its id."""
    job_id = await submit(client, **fields)
    act = {"start": start_job, "succeed": succeed_job, "fail": fail_job}[outcome]
    await asyncio.to_thread(start_job, redis_url, job_id)
    if outcome != "start":
        await asyncio.to_thread(act, redis_url, job_id)
    return job_id
