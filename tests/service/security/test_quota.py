"""The maximum number of waiting and running jobs of an API key."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
import redis
from support.service.http_jobs import fail_job, succeed_job
from support.service.keys import CUBE, bearer, key_id

from contracts import redis_keys
from contracts.jobs import Progress, WorkerHeartbeat
from devtools.redis_server import RedisServer
from worker.jobs.record import JobRepository

pytestmark = pytest.mark.anyio
START_AND_WAIT = """
import sys, time
from support.service.http_jobs import start_job
start_job(*sys.argv[1:])
print("started", flush=True)
time.sleep(600)
"""


async def post(client: httpx.AsyncClient, header: dict[str, str], **headers: str) -> httpx.Response:
    return await client.post("/generate", json=CUBE, headers=header | headers)


async def test_services_share_a_quota(serve: Any, connection: redis.Redis) -> None:
    """Of 20 concurrent jobs on two services 5 are accepted, and all of those are queued."""
    ann = bearer(connection, max_jobs=5)
    bob = bearer(connection, "bob", max_jobs=5)
    async with serve(api_keys="required") as first, serve(api_keys="required") as second:
        clients = [first, second] * 10
        answers = await asyncio.gather(*(post(client, ann) for client in clients))
        assert (await post(first, bob)).status_code == 202
    accepted = {answer.json()["id"] for answer in answers if answer.status_code == 202}
    assert len(accepted) == 5
    assert [answer.status_code for answer in answers].count(429) == 15
    queued = connection.lrange(redis_keys.QUEUE_LIST, 0, 4)
    assert {job_id.decode() for job_id in queued} == accepted
    assert connection.zcard(redis_keys.listing(key_id(ann))) == 5


async def test_a_job_counts_until_it_ends(
    guarded: httpx.AsyncClient, connection: redis.Redis, redis_server: RedisServer
) -> None:
    """In whichever way it ends. A repeat of an accepted request needs no quota."""
    header = bearer(connection, max_jobs=1)

    async def succeed(job_id: str) -> None:
        await asyncio.to_thread(succeed_job, redis_server.url, job_id)

    async def fail(job_id: str) -> None:
        await asyncio.to_thread(fail_job, redis_server.url, job_id)

    async def cancel(job_id: str) -> None:
        assert (await guarded.delete(f"/jobs/{job_id}", headers=header)).status_code == 200

    async def expire(job_id: str) -> None:
        connection.delete(redis_keys.job(job_id))

    ends: list[Callable[[str], Awaitable[None]]] = [succeed, fail, cancel, expire]
    for end in ends:
        key = {"idempotency-key": end.__name__}
        accepted = await post(guarded, header, **key)
        assert accepted.status_code == 202
        rejected = await post(guarded, header)
        assert rejected.status_code == 429
        assert "already has 1 active jobs (limit 1)" in rejected.json()["detail"]
        repeated = await post(guarded, header, **key)
        assert repeated.json()["id"] == accepted.json()["id"]
        await end(accepted.json()["id"])
    assert (await post(guarded, header)).status_code == 202
    assert connection.scard(redis_keys.active_jobs(key_id(header))) == 1


async def test_a_job_of_a_killed_worker_counts_once(
    guarded: httpx.AsyncClient, connection: redis.Redis, redis_server: RedisServer
) -> None:
    """Until another worker ends it: there is no counter that the killed one leaves wrong."""
    header = bearer(connection, max_jobs=1)
    job_id = (await post(guarded, header)).json()["id"]
    process = subprocess.Popen(
        [sys.executable, "-c", START_AND_WAIT, redis_server.url, job_id],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": f".{os.pathsep}tests"},
    )
    assert process.stdout
    assert await asyncio.to_thread(process.stdout.readline) == b"started\n"
    process.kill()
    process.wait()
    process.stdout.close()
    job = await guarded.get(f"/jobs/{job_id}", headers=header)
    assert job.json()["status"] == "running"
    assert (await post(guarded, header)).status_code == 429
    JobRepository(connection, job_id, 100).requeue()
    assert (await post(guarded, header)).status_code == 429
    succeed_job(redis_server.url, job_id)
    assert (await post(guarded, header)).status_code == 202


async def test_retry_after_is_the_estimated_end_of_a_job(
    guarded: httpx.AsyncClient, connection: redis.Redis
) -> None:
    """Of the running job nearest to its end, else by mean durations; 30 s without a measurement."""
    header = bearer(connection, max_jobs=2)
    ids = [(await post(guarded, header)).json()["id"] for _ in range(2)]

    async def retry_after() -> str:
        answer = await post(guarded, header)
        assert answer.status_code == 429
        return str(answer.headers["retry-after"])

    assert await retry_after() == "30"
    connection.sadd(redis_keys.WORKERS, "w")
    connection.set(redis_keys.worker("w"), WorkerHeartbeat(pid=1, slots=2).model_dump_json())
    connection.hset(redis_keys.MEAN_DURATIONS, redis_keys.mean_duration("any", None), "40.0")
    assert await retry_after() == "40"
    connection.lrem(redis_keys.QUEUE_LIST, 1, ids[0])
    job = JobRepository(connection, ids[0], 100)
    job.start({})
    job.update_progress(Progress(stage="decoder", step=1, steps=2, fraction=0.5, eta_seconds=7.2))
    assert await retry_after() == "8"
