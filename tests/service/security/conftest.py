"""Fixtures of a service that requires API keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import redis

from devtools.redis_server import RedisServer


@pytest.fixture
def connection(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A blocking client of the test's Redis."""
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


@pytest.fixture
async def guarded(serve: Any, anyio_backend: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service that requires API keys."""
    async with serve(api_keys="required") as client:
        yield client
