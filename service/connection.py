"""Connections to Redis, to a server or by way of Sentinels. `worker/connection.py` makes its own."""

from __future__ import annotations

from typing import Any

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.connection import parse_url

from contracts.redis_url import sentinels


def blocking(url: str, **options: Any) -> Any:
    """A client of the Redis at this URL, with redis-py's options. Where the URL names Sentinels, each new connection asks them
    which server is the master, so that after a failover the work goes on there."""
    return _client(redis.Redis, redis.sentinel.Sentinel, url, options)


def asynchronous(url: str, **options: Any) -> Any:
    """The same, for asyncio."""
    return _client(redis.asyncio.Redis, redis.asyncio.sentinel.Sentinel, url, options)


async def close(*clients: Any) -> None:
    """Give the connections of clients back, those to Sentinels too."""
    for client in clients:
        manager = getattr(client.connection_pool, "sentinel_manager", None)
        for each in (client, *(manager.sentinels if manager else ())):
            if isinstance(each, redis.Redis):
                each.close()
            else:
                await each.aclose()


def _client(server_class: Any, sentinel_class: Any, url: str, options: dict[str, Any]) -> Any:
    found = sentinels(url)
    if found is None:
        return server_class.from_url(url, **options)
    options |= parse_url(found.url)
    del options["host"]
    tls = options.pop("connection_class", None) is not None
    own = {name: options.pop(f"sentinel_{name}") for name in ("username", "password") if f"sentinel_{name}" in options}
    own |= {name: value for name, value in options.items() if name.startswith(("socket_", "ssl_"))}
    return sentinel_class(found.addresses, sentinel_kwargs=own | {"ssl": tls}, ssl=tls, **options).master_for(found.master)
