"""Which webhook URLs are accepted, and what a dispatcher refuses to call later."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis.asyncio
from support.service.http_jobs import fail_job, submit, submit_and_end
from support.service.webhooks import LOCAL, wait_until_delivered

from devtools.redis_server import RedisServer

pytestmark = pytest.mark.anyio
ANY_HOST = {"webhook_hosts": "*"}
PUBLIC_ONLY = {"webhook_allow_private_networks": False}


@pytest.mark.parametrize(
    ("url", "settings", "message"),
    [
        (
            "https://hook.test/",
            {"webhook_hosts": ""},
            "webhooks are off; the operator can allow hosts with UNCLIP_WEBHOOK_HOSTS",
        ),
        (
            "http://hook.test/",
            {"webhook_allow_http": False},
            "http:// is not allowed; use https://",
        ),
        (
            "https://elsewhere.example/",
            {},
            "'elsewhere.example' is not an allowed host; use one of 127.0.0.1, *.test",
        ),
        ("https://hook.test.evil.example/", {}, "is not an allowed host"),
        ("https://evil.example/?hook.test", {}, "is not an allowed host"),
        ("https://evil.example#.test", {}, "is not an allowed host"),
        ("https://user@hook.test/", {}, "user or a password"),
        ("ftp://hook.test/", {}, "URL scheme should be 'http' or 'https'"),
        ("file:///etc/passwd", {}, "URL scheme should be 'http' or 'https'"),
        ("hook.test", {}, "valid URL"),
        (
            "http://127.0.0.1/",
            PUBLIC_ONLY,
            "127.0.0.1 is not allowed: it is not in a public network",
        ),
        ("http://2130706433/", PUBLIC_ONLY, "127.0.0.1 is not allowed"),
        ("http://0177.1/", PUBLIC_ONLY, "127.0.0.1 is not allowed"),
        (
            "http://169.254.169.254/latest/",
            ANY_HOST,
            "it is link-local or a cloud's metadata service",
        ),
        ("http://[::ffff:a9fe:a9fe]/", ANY_HOST, "it is link-local or a cloud's"),
        ("http://[::1]/", ANY_HOST | PUBLIC_ONLY, "it is not in a public network"),
        ("http://0.0.0.0/", ANY_HOST, "it is not the address of one machine"),
    ],
)
async def test_a_url_that_is_not_allowed_is_422(
    serve: Any, store: redis.asyncio.Redis, url: str, settings: dict[str, Any], message: str
) -> None:
    """The reason is in the response, and no job is accepted."""
    async with serve(**LOCAL | settings) as client:
        answer = await client.post("/generate", json={"prompt": "a", "webhook": url})
    assert answer.status_code == 422
    assert "webhook: " in answer.json()["detail"]
    assert message in answer.json()["detail"]
    assert await store.keys("*") == []


async def test_a_name_in_a_private_network_is_not_called(
    serve: Any, redis_server: RedisServer, receive: Any, store: redis.asyncio.Redis
) -> None:
    """Its address is known when it is called; the delivery is then refused and not retried."""
    receiver = receive()
    async with serve(**LOCAL | PUBLIC_ONLY | {"webhook_hosts": "localhost"}) as client:
        url = receiver.url.replace("127.0.0.1", "localhost")
        await submit_and_end(client, redis_server.url, webhook=url)
        await wait_until_delivered(store)
        metrics = (await client.get("/metrics")).text
    assert 'unclip_webhook_attempts_total{outcome="refused"} 1.0' in metrics
    assert receiver.deliveries == []


async def test_a_host_that_was_removed_is_not_called(
    serve: Any, redis_server: RedisServer, receive: Any, store: redis.asyncio.Redis
) -> None:
    """Jobs that were accepted while it was allowed are not delivered."""
    receiver = receive()
    async with serve(**LOCAL) as client:
        job_id = await submit(client, webhook=receiver.url)
    await asyncio.to_thread(fail_job, redis_server.url, job_id)
    async with serve():
        await wait_until_delivered(store)
    assert receiver.deliveries == []
