"""A proxy in front of a test's Redis that loses replies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.chaos.proxy import FaultyProxy
from devtools.redis_server import RedisServer


@contextmanager
def proxied(server: RedisServer) -> Iterator[tuple[FaultyProxy, str]]:
    """Yield a proxy in front of a server, and its URL."""
    proxy = FaultyProxy(server.port)
    proxy.start()
    yield proxy, f"redis://127.0.0.1:{proxy.port}/0"
    proxy.stop()
