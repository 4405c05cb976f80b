"""The application as it is served, spoken to by HTTP without a socket, on a real Redis or on none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest
import redis.asyncio

from devtools.ports import free_port
from service.api.problems import problem_response
from service.app import create_app
from service.security.headers import wrap_app
from service.settings import Settings


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def served(**fields: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app with these settings. An exception that leaves the app fails the test: no 500 passes unseen."""
    settings = Settings(**fields)
    app = create_app(settings)
    asgi_app = wrap_app(app, settings, problem_response)
    transport = httpx.ASGITransport(asgi_app, client=("127.0.0.1", 1))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://house", timeout=30) as client,
    ):
        yield client


@pytest.fixture
def serve(redis_server: Any) -> Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]:
    """`served` on this test's Redis."""
    return lambda **fields: served(redis_url=redis_server.url, **fields)


@pytest.fixture
async def client(redis_server: Any, anyio_backend: str) -> AsyncIterator[httpx.AsyncClient]:
    """A service on a Redis of the test's own, with room for three waiting jobs."""
    async with served(redis_url=redis_server.url, max_queued_jobs=3) as client:
        yield client


@pytest.fixture
async def alone(anyio_backend: str) -> AsyncIterator[httpx.AsyncClient]:
    """A service whose Redis is away: what it answers, it answers by itself."""
    async with served(redis_url=f"redis://127.0.0.1:{free_port()}/0") as client:
        yield client


@pytest.fixture
async def store(redis_server: Any, anyio_backend: str) -> AsyncIterator[redis.asyncio.Redis]:
    """The same Redis, seen from beside the service."""
    async with redis.asyncio.Redis.from_url(redis_server.url, max_connections=2000) as store:
        yield store
