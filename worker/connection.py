"""Connections to Redis, to a server or by way of Sentinels. `service/connection.py` makes its own."""

from __future__ import annotations

from typing import Any

import redis
from redis.connection import parse_url
from redis.sentinel import Sentinel

from contracts.redis_url import sentinels


def connection(url: str, **options: Any) -> redis.Redis:
    """A client of the Redis at this URL, with redis-py's options. Where the URL names Sentinels, each new connection asks them
    which server is the master, so that after a failover the work goes on there."""
    found = sentinels(url)
    if found is None:
        return redis.Redis.from_url(url, **options)
    options |= parse_url(found.url)
    del options["host"]
    tls = options.pop("connection_class", None) is not None
    own = {name: options.pop(f"sentinel_{name}") for name in ("username", "password") if f"sentinel_{name}" in options}
    own |= {name: value for name, value in options.items() if name.startswith(("socket_", "ssl_"))}
    client: redis.Redis = Sentinel(found.addresses, sentinel_kwargs=own | {"ssl": tls}, ssl=tls, **options).master_for(found.master)
    return client
