"""Transitions whose replies are lost: Redis has made them, and the worker repeats them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from support.jobs import TTL_S, store_job
from support.servers.proxy import proxied

from contracts import redis_keys
from contracts.jobs import ImageInfo, JobRecord, JobSpec, Progress, now
from contracts.operations import GenerateRequest
from contracts.webhooks import Webhook, lane_of
from devtools.redis_server import RedisServer
from worker.jobs.record import JobRepository
from worker.queue.worker import connect_patiently

NUM_JOBS = 100
HALF = Progress(stage="decoder", step=3, steps=6, fraction=0.5)
WHOLE = Progress(stage="decoder", step=6, steps=6, fraction=1.0)
IMAGE = ImageInfo(seed=7, width=64, height=64)
WEBHOOK = Webhook(
    url="http://receiver.test/hook", events=["started", "succeeded"], base_url="http://s.test"
)


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


def store_job_with_webhook(client: redis.Redis, job_id: str) -> None:
    spec = JobSpec(
        operation="generate",
        request=GenerateRequest(prompt="a"),
        webhook=WEBHOOK,
        created_at=now(),
    )
    client.hset(redis_keys.job(job_id), mapping=JobRecord(job_id, spec).to_hash())


def test_each_job_starts_and_ends_once(client: redis.Redis, redis_server: RedisServer) -> None:
    """Each change is reported as made, and counted, published and delivered once."""
    ids = [f"job{number}" for number in range(NUM_JOBS)]
    delivered = []
    lane = redis_keys.webhooks(lane_of(WEBHOOK, None))
    for job_id in ids:
        store_job_with_webhook(client, job_id)
    with proxied(redis_server) as (proxy, url):
        connection = connect_patiently(url)
        for job_id in ids:
            jobs = JobRepository(connection, job_id, TTL_S)
            proxy.lose_answers(1)
            assert jobs.start({})
            delivered += client.zpopmin(lane, 10)
            proxy.lose_answers(1)
            assert jobs.succeed([b"png"], [IMAGE], [], WHOLE)
            delivered += client.zpopmin(lane, 10)
        connection.close()
        assert proxy.num_lost_answers == 2 * NUM_JOBS
    assert len(delivered) == 2 * NUM_JOBS
    assert client.hgetall(redis_keys.OUTCOMES) == {b"generate:succeeded": b"100"}
    for job_id in ids:
        events = [fields[b"event"] for _, fields in client.xrange(redis_keys.events(job_id))]
        assert events == [b"ended"]
        assert client.get(redis_keys.image(job_id, 0)) == b"png"
    assert not client.keys("*:image:0:*")


def test_progress_is_dropped_while_redis_refuses_it(client: redis.Redis) -> None:
    """The generation goes on, and the next update is written."""
    jobs = store_job(client, {"prompt": "a"})
    jobs.start({})
    client.config_set("min-replicas-to-write", "1")
    assert jobs.update_progress(HALF)
    client.config_set("min-replicas-to-write", "0")
    record = jobs.read()
    assert record is not None
    assert record.progress is None
    assert jobs.update_progress(HALF)
    record = jobs.read()
    assert record is not None
    assert record.progress == HALF
