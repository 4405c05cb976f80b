"""Health check of the worker's image: exit 0 if this container's worker sent a heartbeat lately.

A worker sends its heartbeat to Redis under its name, and RQ stores the host name with it. The host
name of a container is its own, so it identifies the container's worker. The service's /readyz uses
the same heartbeats: a worker that lost Redis is unhealthy until Redis is back.
"""

from __future__ import annotations

import os
import socket
import sys

import redis

from contracts import redis_keys
from infra.redis import connect

TIMEOUT_S = 3


def has_live_worker(client: redis.Redis, host: str) -> bool:
    """Return whether a worker on this host has a heartbeat that has not expired."""
    for name in map(str, client.smembers(redis_keys.WORKERS)):
        hostname = client.hget(f"rq:worker:{name}", "hostname")
        if hostname == host and client.exists(redis_keys.worker(name)):
            return True
    return False


def main() -> None:
    """Exit with 1 and the reason if the worker is unhealthy."""
    url = os.environ.get("UNCLIP_REDIS_URL", "redis://127.0.0.1:6379/0")
    try:
        client = connect(
            url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            decode_responses=True,
        )
        if not has_live_worker(client, socket.gethostname()):
            sys.exit("No heartbeat of this container's worker: it is loading or stuck.")
    except redis.RedisError as error:
        sys.exit(f"Redis is unavailable: {error}")


if __name__ == "__main__":
    main()
