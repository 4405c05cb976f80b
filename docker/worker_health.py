"""The worker image's health check: has the worker of this container given a sign of life lately?

The worker beats in Redis under a name of its own, and RQ notes the machine beside the name. A container is a machine by
its host name, so the beat that counts is the one of the name that stands at this host. This is also what the service's
/readyz goes by: a worker that lost Redis is unhealthy until it is back.
"""

from __future__ import annotations

import os
import socket
import sys

import redis

from contracts import redis_keys
from infra.redis import connect


def beats(client: redis.Redis, host: str) -> bool:
    """True where a worker on this host has beaten within the beat's life."""
    for name in map(str, client.smembers(redis_keys.WORKERS)):
        stands_at = client.hget(f"rq:worker:{name}", "hostname")
        if stands_at == host and client.exists(redis_keys.worker(name)):
            return True
    return False


def main() -> None:
    """Exit 0 where it lives, 1 with the reason where not."""
    url = os.environ.get("UNCLIP_REDIS_URL", "redis://127.0.0.1:6379/0")
    try:
        client = connect(url, socket_timeout=3, socket_connect_timeout=3, decode_responses=True)
        if not beats(client, socket.gethostname()):
            sys.exit("No sign of life from this container's worker: it is loading, or stuck.")
    except redis.RedisError as error:
        sys.exit(f"Redis does not answer: {error}")


if __name__ == "__main__":
    main()
