"""Connections to Redis, either to a server or to the master that Sentinels name."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.connection import parse_url

from contracts.redis_url import parse_sentinels

log = logging.getLogger(__name__)
RETRY_PAUSE_S = 0.5
PROBE_TIMEOUT_S = 2.0


class _MasterConnection:
    """Query the Sentinels at every connect.

    redis-py queries them only when a connection leaves the pool. A command that is retried on
    that connection would then try a dead master again and again.
    """

    connection_pool: Any

    def _connect(self) -> Any:
        self.host, self.port = self.connection_pool.get_master_address()
        return super()._connect()  # type: ignore[misc]


class _AsyncMasterConnection:
    """Query the Sentinels at every connect, for asyncio."""

    connection_pool: Any

    async def _connect(self) -> Any:
        self.host, self.port = await self.connection_pool.get_master_address()
        return await super()._connect()  # type: ignore[misc]


class _Plain(_MasterConnection, redis.sentinel.SentinelManagedConnection):
    pass


class _Tls(_MasterConnection, redis.sentinel.SentinelManagedSSLConnection):
    pass


class _AsyncPlain(_AsyncMasterConnection, redis.asyncio.sentinel.SentinelManagedConnection):
    pass


class _AsyncTls(_AsyncMasterConnection, redis.asyncio.sentinel.SentinelManagedSSLConnection):
    pass


# Clients are Any because redis-py's types of replies differ from release to release.
def connect(url: str, **options: Any) -> Any:
    """Create a blocking client of the Redis at a URL.

    url: a server's or its Sentinels', see `contracts.redis_url`. With Sentinels, the client
        follows the master through failovers.
    options: keyword arguments of `redis.Redis`.
    """
    return _client(redis.Redis, redis.sentinel.Sentinel, (_Plain, _Tls), url, options)


def connect_async(url: str, **options: Any) -> Any:
    """Create an asyncio client of the Redis at a URL; arguments as in `connect`."""
    return _client(
        redis.asyncio.Redis, redis.asyncio.sentinel.Sentinel, (_AsyncPlain, _AsyncTls), url, options
    )


async def close(*clients: Any) -> None:
    """Close the connections of blocking and asyncio clients, those to Sentinels too."""
    for client in clients:
        manager = getattr(client.connection_pool, "sentinel_manager", None)
        for each in (client, *(manager.sentinels if manager else ())):
            if isinstance(each, redis.Redis):
                each.close()
            else:
                await each.aclose()


def server_time(client: Any) -> datetime:
    """Return the time by Redis's clock, the only one that service and workers share. Blocking."""
    seconds, microseconds = client.time()
    return datetime.fromtimestamp(seconds + microseconds / 1_000_000, UTC)


def wait_for_redis(url: str) -> None:
    """Block until Redis answers. Log a warning if it does not at once."""
    probe = connect(url, socket_timeout=PROBE_TIMEOUT_S, socket_connect_timeout=PROBE_TIMEOUT_S)
    is_logged = False
    while True:
        try:
            probe.ping()
            probe.close()
            return
        except (redis.ConnectionError, redis.TimeoutError) as error:
            if not is_logged:
                log.warning("waiting for Redis: %s", error)
                is_logged = True
            time.sleep(RETRY_PAUSE_S)


def _client(
    client_class: Any,
    sentinel_class: Any,
    connection_classes: tuple[Any, Any],
    url: str,
    options: dict[str, Any],
) -> Any:
    """Create a client of either kind. `connection_classes`: without and with TLS."""
    sentinels = parse_sentinels(url)
    if sentinels is None:
        return client_class.from_url(url, **options)
    options |= parse_url(sentinels.url)
    del options["host"]
    uses_tls = options.pop("connection_class", None) is not None
    # The Sentinels have credentials of their own; sockets and TLS are set up as for the servers.
    sentinel_options = {
        name: options.pop(f"sentinel_{name}")
        for name in ("username", "password")
        if f"sentinel_{name}" in options
    }
    sentinel_options |= {
        name: value for name, value in options.items() if name.startswith(("socket_", "ssl_"))
    }
    sentinel_options["ssl"] = uses_tls
    manager = sentinel_class(sentinels.addresses, sentinel_kwargs=sentinel_options, **options)
    return manager.master_for(sentinels.master, connection_class=connection_classes[uses_tls])
