"""Connections to Redis, to a server or by way of Sentinels. `worker/connection.py` makes its own."""

from __future__ import annotations

from typing import Any

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.connection import parse_url

from contracts.redis_url import parse_sentinels


class _Following:
    """Asks the Sentinels whenever it connects. redis-py's own asks only when it is taken from the pool, and a command that is tried
    again on it would call for a dead master."""

    connection_pool: Any

    def _connect(self) -> Any:
        self.host, self.port = self.connection_pool.get_master_address()
        return super()._connect()  # type: ignore[misc]


class _FollowingAsynchronously:
    connection_pool: Any

    async def _connect(self) -> Any:
        self.host, self.port = await self.connection_pool.get_master_address()
        return await super()._connect()  # type: ignore[misc]


class _Plain(_Following, redis.sentinel.SentinelManagedConnection):
    pass


class _Tls(_Following, redis.sentinel.SentinelManagedSSLConnection):
    pass


class _AsyncPlain(_FollowingAsynchronously, redis.asyncio.sentinel.SentinelManagedConnection):
    pass


class _AsyncTls(_FollowingAsynchronously, redis.asyncio.sentinel.SentinelManagedSSLConnection):
    pass


def blocking(url: str, **options: Any) -> Any:
    """A client of the Redis at this URL, with redis-py's options. Where the URL names Sentinels, of the server that they call the
    master, and after a failover of the one that is it then."""
    return _client(redis.Redis, redis.sentinel.Sentinel, (_Plain, _Tls), url, options)


def asynchronous(url: str, **options: Any) -> Any:
    """The same, for asyncio."""
    return _client(
        redis.asyncio.Redis, redis.asyncio.sentinel.Sentinel, (_AsyncPlain, _AsyncTls), url, options
    )


async def close(*clients: Any) -> None:
    """Give the connections of clients back, those to Sentinels too."""
    for client in clients:
        manager = getattr(client.connection_pool, "sentinel_manager", None)
        for each in (client, *(manager.sentinels if manager else ())):
            if isinstance(each, redis.Redis):
                each.close()
            else:
                await each.aclose()


def _client(
    server: Any, sentinel: Any, managed: tuple[Any, Any], url: str, options: dict[str, Any]
) -> Any:
    found = parse_sentinels(url)
    if found is None:
        return server.from_url(url, **options)
    options |= parse_url(found.url)
    del options["host"]
    tls = options.pop("connection_class", None) is not None
    own = {
        name: options.pop(f"sentinel_{name}")
        for name in ("username", "password")
        if f"sentinel_{name}" in options
    }
    own |= {name: value for name, value in options.items() if name.startswith(("socket_", "ssl_"))}
    known = sentinel(found.addresses, sentinel_kwargs=own | {"ssl": tls}, **options)
    return known.master_for(found.master, connection_class=managed[tls])
