"""Fixtures of services that OpenAI's client calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from support.service.openai_service import ServiceUnderTest, running_service

from devtools.ports import free_port
from devtools.redis_server import RedisServer


@pytest.fixture
def start_service(redis_server: RedisServer) -> Iterator[Callable[..., ServiceUnderTest]]:
    """Start services with settings of the test's choice."""
    with ExitStack() as services:
        yield lambda *args, **fields: services.enter_context(
            running_service(redis_server.url, *args, **fields)
        )


@pytest.fixture
def service(start_service: Callable[..., ServiceUnderTest]) -> ServiceUnderTest:
    """A service with default settings."""
    return start_service()


@pytest.fixture(scope="module")
def without_redis() -> Iterator[ServiceUnderTest]:
    """A service that responds to invalid calls without Redis."""
    with running_service(f"redis://127.0.0.1:{free_port()}/0") as service:
        yield service
