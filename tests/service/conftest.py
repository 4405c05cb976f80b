"""The application over HTTP without a socket, with a real Redis or with none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest
import redis.asyncio

from devtools.ports import free_port
from devtools.redis_server import RedisServer
from service.api.problems import problem_response
from service.app import create_app
from service.security.headers import wrap_app
from service.settings import Settings

BASE_URL = "http://service.test"


@pytest.fixture
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio."""
    return "asyncio"


@asynccontextmanager
async def served(**fields: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of an app with these settings. An exception that leaves the app is raised."""
    # The host of BASE_URL is none that a service on a loopback address trusts by default.
    settings = Settings(**{"trusted_hosts": "*"} | fields)
    app = create_app(settings)
    asgi_app = wrap_app(app, settings, problem_response)
    transport = httpx.ASGITransport(asgi_app, client=("127.0.0.1", 1))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url=BASE_URL, timeout=30) as client,
    ):
        yield client


@pytest.fixture
def serve(
    redis_server: RedisServer,
) -> Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]:
    """Return `served` on the Redis of this test."""
    return lambda **fields: served(redis_url=redis_server.url, **fields)


@pytest.fixture
async def client(redis_server: RedisServer, anyio_backend: str) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of a service on the Redis of this test, with room for three waiting jobs."""
    async with served(redis_url=redis_server.url, max_queued_jobs=3) as client:
        yield client


@pytest.fixture
async def alone(anyio_backend: str) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of a service without Redis."""
    async with served(redis_url=f"redis://127.0.0.1:{free_port()}/0") as client:
        yield client


@pytest.fixture
async def store(
    redis_server: RedisServer, anyio_backend: str
) -> AsyncIterator[redis.asyncio.Redis]:
    """Return a client of the Redis of this test."""
    async with redis.asyncio.Redis.from_url(redis_server.url, max_connections=2000) as store:
        yield store
