"""Webhooks delivered to an HTTP server on 127.0.0.1: signed, retried, and never lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
import redis.asyncio
from standardwebhooks import Webhook as Verifier
from support.service.http_jobs import fail_job, submit, submit_and_end
from support.service.webhooks import LOCAL, SECOND_SECRET, SECRET, WAIT_S, wait_until_delivered

from contracts import redis_keys
from devtools.ports import free_port
from devtools.redis_server import RedisServer
from service.webhooks import dispatcher

pytestmark = pytest.mark.anyio
DELIVERED = 'unclip_webhook_attempts_total{outcome="delivered"} 1.0'


async def test_an_ended_job_is_delivered_with_signatures(
    serve: Any, redis_server: RedisServer, receive: Any, store: redis.asyncio.Redis
) -> None:
    """The body is the job as GET returns it, and the scheme's library verifies either secret."""
    receiver = receive()
    settings = LOCAL | {"webhook_secret": f"{SECRET} {SECOND_SECRET}"}
    async with serve(**settings, public_url="https://images.example") as client:
        job_id = await submit_and_end(client, redis_server.url, webhook=receiver.url)
        await receiver.wait_for(1)
        await wait_until_delivered(store)
        job = (await client.get(f"/jobs/{job_id}")).json()
        metrics = (await client.get("/metrics")).text
    ((path, headers, body),) = receiver.deliveries
    for secret in (SECRET, SECOND_SECRET):
        assert Verifier(secret).verify(body, headers) == job
    with pytest.raises(Exception, match="No matching signature"):
        Verifier(SECRET).verify(body.replace(b"succeeded", b"failed"), headers)
    assert job["status"] == "succeeded"
    assert job["images"][0]["url"].startswith("https://images.example/jobs/")
    assert "webhook" not in job["parameters"]
    assert path == "/hook?key=1"
    assert headers["webhook-id"] == f"msg_{job_id}_succeeded"
    assert headers["content-type"] == "application/json"
    assert headers["host"] == receiver.url.split("/")[2]
    assert DELIVERED in metrics


async def test_only_requested_events_are_delivered(
    serve: Any, redis_server: RedisServer, receive: Any, store: redis.asyncio.Redis
) -> None:
    """The start if it is requested, and by default each way to end."""
    receiver = receive()
    async with serve(**LOCAL) as client:
        failed = await submit_and_end(
            client,
            redis_server.url,
            "fail",
            webhook=receiver.url,
            webhook_events=["started", "failed"],
        )
        await submit_and_end(
            client, redis_server.url, webhook=receiver.url, webhook_events=["failed"]
        )
        await submit_and_end(client, redis_server.url)
        running = await submit_and_end(client, redis_server.url, "start", webhook=receiver.url)
        await client.delete(f"/jobs/{running}")
        await receiver.wait_for(3)
        await wait_until_delivered(store)
    statuses = {
        headers["webhook-id"]: json.loads(body)["status"]
        for _, headers, body in receiver.deliveries
    }
    assert statuses.keys() == {
        f"msg_{failed}_started",
        f"msg_{failed}_failed",
        f"msg_{running}_cancelled",
    }
    assert statuses[f"msg_{failed}_failed"] == "failed"
    assert statuses[f"msg_{running}_cancelled"] == "cancelled"


async def test_a_failed_delivery_is_retried_unchanged(
    serve: Any, redis_server: RedisServer, receive: Any, store: redis.asyncio.Redis
) -> None:
    """A redirect fails too and is not followed. The id lets the receiver recognise a repeat."""
    receiver = receive(500, 307)
    async with serve(**LOCAL) as client:
        await submit_and_end(client, redis_server.url, webhook=receiver.url)
        await receiver.wait_for(3)
        await wait_until_delivered(store)
    deliveries = {
        (path, headers["webhook-id"], body) for path, headers, body in receiver.deliveries
    }
    assert len(deliveries) == 1
    assert receiver.deliveries[0][0] == "/hook?key=1"


@pytest.mark.parametrize(
    ("answers", "attempts"), [([500] * 20, dispatcher.MAX_ATTEMPTS), ([410], 1)]
)
async def test_attempts_are_limited(
    serve: Any,
    redis_server: RedisServer,
    receive: Any,
    store: redis.asyncio.Redis,
    monkeypatch: pytest.MonkeyPatch,
    answers: list[int],
    attempts: int,
) -> None:
    """To nine, or to one if the receiver answers 410 Gone."""
    monkeypatch.setattr(dispatcher, "pause_s", lambda attempts: 0.0)
    receiver = receive(*answers)
    async with serve(**LOCAL) as client:
        await submit_and_end(client, redis_server.url, webhook=receiver.url)
        await wait_until_delivered(store)
    assert len(receiver.deliveries) == attempts


async def test_an_expired_job_is_not_delivered(
    serve: Any, receive: Any, store: redis.asyncio.Redis
) -> None:
    """Its delivery leaves the queue."""
    receiver = receive()
    await store.sadd(redis_keys.WEBHOOKS, "key:a")
    await store.zadd(redis_keys.webhooks("key:a"), {"gone:succeeded": 0})
    async with serve(**LOCAL):
        await wait_until_delivered(store)
    assert receiver.deliveries == []


async def test_several_services_deliver_each_event_once(
    serve: Any, redis_server: RedisServer, receive: Any, store: redis.asyncio.Redis
) -> None:
    """Three services share thirty jobs."""
    receiver = receive()
    async with serve(**LOCAL) as client, serve(**LOCAL), serve(**LOCAL):
        ids = [
            await submit_and_end(client, redis_server.url, webhook=receiver.url) for _ in range(30)
        ]
        await wait_until_delivered(store)
    delivered = sorted(headers["webhook-id"] for _, headers, _ in receiver.deliveries)
    assert delivered == sorted(f"msg_{job_id}_succeeded" for job_id in ids)


async def test_a_slow_receiver_does_not_block_others(
    serve: Any, redis_server: RedisServer, receive: Any, store: redis.asyncio.Redis
) -> None:
    """An attempt that times out is retried, and other deliveries go out meanwhile."""
    release = threading.Event()
    slow = receive(lambda: release.wait(WAIT_S) and 500)
    quick = receive()
    async with serve(**LOCAL, webhook_timeout_s=2.0) as client:
        await submit_and_end(client, redis_server.url, webhook=slow.url)
        await slow.wait_for(1)
        await submit_and_end(client, redis_server.url, webhook=quick.url)
        await quick.wait_for(1)
        await slow.wait_for(2)
        release.set()
        await wait_until_delivered(store)


async def test_a_hanging_receiver_does_not_delay_other_lanes(
    serve: Any, redis_server: RedisServer, receive: Any, store: redis.asyncio.Redis
) -> None:
    """Not even with more deliveries than a dispatcher has connections."""
    release = threading.Event()
    slow = receive(*[lambda: release.wait(WAIT_S) and 200] * 40)
    quick = receive()
    async with serve(**LOCAL, webhook_timeout_s=30.0, max_queued_jobs=100) as client:
        for _ in range(40):
            await submit_and_end(client, redis_server.url, webhook=slow.url)
        await slow.wait_for(dispatcher.MAX_PER_LANE)
        started_at = time.monotonic()
        await submit_and_end(client, redis_server.url, webhook=quick.url)
        await quick.wait_for(1)
        assert time.monotonic() - started_at < 15
        assert len(slow.deliveries) == dispatcher.MAX_PER_LANE
        release.set()
        await wait_until_delivered(store)


async def test_a_killed_service_loses_no_delivery(
    redis_server: RedisServer, receive: Any, store: redis.asyncio.Redis, serve: Any
) -> None:
    """Another service repeats the attempt after the lease has expired."""
    receiver = receive(lambda: time.sleep(60) or 500)
    async with serve(**LOCAL) as client:
        job_id = await submit(client, webhook=receiver.url)
    environment = {f"UNCLIP_{name.upper()}": str(value) for name, value in LOCAL.items()} | {
        "UNCLIP_REDIS_URL": redis_server.url,
        "UNCLIP_PORT": str(free_port()),
        "UNCLIP_WEBHOOK_TIMEOUT_S": "1.5",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "service"], env=os.environ | environment, stderr=subprocess.DEVNULL
    )
    try:
        await asyncio.to_thread(fail_job, redis_server.url, job_id)
        await receiver.wait_for(1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (lane,) = await store.smembers(redis_keys.WEBHOOKS)
    assert await store.zcard(redis_keys.webhooks(lane.decode())) == 1
    async with serve(**LOCAL):
        await receiver.wait_for(2)
        await wait_until_delivered(store)
    ids = {headers["webhook-id"] for _, headers, _ in receiver.deliveries}
    assert ids == {f"msg_{job_id}_failed"}


def test_pauses_grow_and_vary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine attempts take hours, not days."""
    monkeypatch.setattr(dispatcher, "FIRST_PAUSE_S", 5.0)
    attempts = range(1, dispatcher.MAX_ATTEMPTS)
    first = [dispatcher.pause_s(attempt) for attempt in attempts]
    second = [dispatcher.pause_s(attempt) for attempt in attempts]
    assert first != second
    assert first == sorted(first)
    assert 3.75 <= first[0] <= 6.25
    for pauses in (first, second):
        assert 3600 < sum(pauses) < 8 * 3600


async def test_expired_jobs_leave_no_keys(
    serve: Any, redis_server: RedisServer, receive: Any, store: redis.asyncio.Redis
) -> None:
    """Neither of the job, its webhook, its idempotency key nor its place in the list."""
    receiver = receive()
    async with serve(**LOCAL) as client:
        answer = await client.post(
            "/generate",
            json={"prompt": "a", "webhook": receiver.url},
            headers={"idempotency-key": "mine"},
        )
        await asyncio.to_thread(fail_job, redis_server.url, answer.json()["id"], ttl_s=1)
        await receiver.wait_for(1)
        await wait_until_delivered(store)
        await asyncio.sleep(1.5)
        await client.get("/jobs")
    counters = {redis_keys.OUTCOMES.encode(), redis_keys.MEAN_DURATIONS.encode()}
    listing = {redis_keys.listing().encode()}
    assert set(await store.keys("unclip:*")) - counters - listing == set()


async def test_the_url_is_private(serve: Any, store: redis.asyncio.Redis) -> None:
    """Neither the job nor its stored request, which goes into PNGs, holds it."""
    async with serve(**LOCAL) as client:
        answer = await client.post(
            "/generate", json={"prompt": "a", "webhook": "https://hook.test/secret"}
        )
    job = answer.json()
    assert "hook.test" not in json.dumps(job)
    spec = json.loads(await store.hget(redis_keys.job(job["id"]), "spec"))
    assert spec.pop("webhook")["url"] == "https://hook.test/secret"
    assert "hook.test" not in json.dumps(spec)
