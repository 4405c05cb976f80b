"""Connections to Redis that wait for it and are closed."""

from __future__ import annotations

import asyncio
import threading

import pytest

from devtools.redis_server import RedisServer
from infra.redis import close, connect, connect_async, wait_for_redis


def test_both_clients_reach_one_server(redis_server: RedisServer) -> None:
    """And `close` closes either kind."""
    blocking = connect(redis_server.url, decode_responses=True)
    blocking.set("name", "value")

    async def read() -> str:
        asynchronous = connect_async(redis_server.url, decode_responses=True)
        value = await asynchronous.get("name")
        await close(asynchronous, blocking)
        return str(value)

    assert asyncio.run(read()) == "value"


def test_waiting_ends_when_redis_is_up(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning says that it waits."""
    redis_server.stop()
    timer = threading.Timer(1.5, redis_server.start)
    timer.start()
    wait_for_redis(redis_server.url)
    timer.join()
    warnings = [record for record in caplog.records if "waiting for Redis" in record.message]
    assert len(warnings) == 1
