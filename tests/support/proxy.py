"""A proxy in front of a test's Redis that loses replies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.chaos.proxy import FaultyProxy
from devtools.redis_server import RedisServer


@contextmanager
def losing_replies(server: RedisServer, count: int) -> Iterator[str]:
    """Yield a URL of Redis at which the replies to the next `count` transactions are lost."""
    proxy = FaultyProxy(server.port)
    proxy.start()
    proxy.lose_answers(count)
    yield f"redis://127.0.0.1:{proxy.port}/0"
    proxy.stop()
    assert proxy.num_lost_answers == count
