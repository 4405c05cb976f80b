"""Connections to Redis, to a server or by way of Sentinels. `service/connection.py` makes its own."""

from __future__ import annotations

from typing import Any

import redis
from redis.connection import parse_url
from redis.sentinel import Sentinel, SentinelManagedConnection, SentinelManagedSSLConnection

from contracts.redis_url import parse_sentinels


class _Following:
    """Asks the Sentinels whenever it connects. redis-py's own asks only when it is taken from the pool: a command that is retried for
    as long as Redis is away would call for a dead master for ever."""

    connection_pool: Any

    def _connect(self) -> Any:
        self.host, self.port = self.connection_pool.get_master_address()
        return super()._connect()  # type: ignore[misc]


class _Plain(_Following, SentinelManagedConnection):
    pass


class _Tls(_Following, SentinelManagedSSLConnection):
    pass


def connection(url: str, **options: Any) -> redis.Redis:
    """A client of the Redis at this URL, with redis-py's options. Where the URL names Sentinels, of the server that they call the
    master, and after a failover of the one that is it then."""
    found = parse_sentinels(url)
    if found is None:
        return redis.Redis.from_url(url, **options)
    options |= parse_url(found.url)
    del options["host"]
    tls = options.pop("connection_class", None) is not None
    own = {
        name: options.pop(f"sentinel_{name}")
        for name in ("username", "password")
        if f"sentinel_{name}" in options
    }
    own |= {name: value for name, value in options.items() if name.startswith(("socket_", "ssl_"))}
    known = Sentinel(found.addresses, sentinel_kwargs=own | {"ssl": tls}, **options)
    client: redis.Redis = known.master_for(found.master, connection_class=_Tls if tls else _Plain)
    return client
