"""Jobs of a service under test, and what a worker does to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import redis

from contracts.jobs import ImageInfo, Progress
from devtools.redis_server import RedisServer
from worker.jobs.record import JobRepository

TTL_S = 100
CUBE: dict[str, Any] = {"prompt": "a red cube", "seed": 5}
PNG = b"\x89PNG"
FINISHED = Progress(stage="decoder", step=6, steps=6, fraction=1.0)


async def submit(client: httpx.AsyncClient, **fields: Any) -> str:
    """Submit a job and return its id."""
    response = await client.post("/generate", json=CUBE | fields)
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


async def as_worker(
    server: RedisServer, job_id: str, act: Callable[[JobRepository], object], delay_s: float = 0
) -> None:
    """Change a job as a worker does, after a delay."""

    def work() -> None:
        with redis.Redis.from_url(server.url) as connection:
            act(JobRepository(connection, job_id, TTL_S))

    await asyncio.sleep(delay_s)
    await asyncio.to_thread(work)


def succeed(jobs: JobRepository) -> None:
    """Let a job succeed with one image of 64 pixels and a warning."""
    jobs.start({"size": 64, "eta": 0.0})
    images = [ImageInfo(seed=5, width=64, height=64)]
    assert jobs.succeed([PNG], images, ["truncated"], FINISHED)
