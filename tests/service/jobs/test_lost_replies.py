"""Acceptances whose replies are lost: each request starts one job."""

from __future__ import annotations

import pytest
import redis
from support.servers.proxy import proxied

from contracts import redis_keys
from contracts.operations import GenerateRequest
from devtools.redis_server import RedisServer
from service.jobs.quota import Owner
from service.jobs.repository import JobRepository
from service.jobs.submit import JobRequest, JobSubmitter
from service.settings import Settings

NUM_JOBS = 100


@pytest.mark.parametrize("owner", [None, Owner("key", max_jobs=1000)])
@pytest.mark.parametrize("has_key", [False, True])
@pytest.mark.anyio
async def test_each_request_starts_one_job(
    redis_server: RedisServer, owner: Owner | None, has_key: bool
) -> None:
    """Of 100, with and without an Idempotency-Key and an API key; each is counted once."""
    request = JobRequest("generate", GenerateRequest(prompt="a red cube"))
    counted: list[str] = []
    with proxied(redis_server) as (proxy, url):
        settings = Settings(redis_url=url, max_queued_jobs=1000)
        jobs = JobRepository(settings)
        submitter = JobSubmitter(settings, jobs, counted.append)
        ids = []
        for number in range(NUM_JOBS):
            proxy.lose_answers(1)
            key = f"key{number}" if has_key else None
            ids.append((await submitter.submit(request, key, owner)).job_id)
        await jobs.close()
        assert proxy.num_lost_answers == NUM_JOBS
    with redis.Redis.from_url(redis_server.url) as store:
        assert store.lrange(redis_keys.QUEUE_LIST, 0, -1) == [job_id.encode() for job_id in ids]
        assert store.zcard(redis_keys.listing()) == NUM_JOBS
    assert len(counted) == NUM_JOBS
