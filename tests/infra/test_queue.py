"""The order of waiting jobs."""

from __future__ import annotations

import redis

from contracts import redis_keys
from devtools.redis_server import RedisServer
from infra.queue import PriorityQueue


def test_jobs_wait_by_priority_and_age(redis_server: RedisServer) -> None:
    """A job that is retried goes before its equals."""
    with redis.Redis.from_url(redis_server.url) as connection:
        queue = PriorityQueue(redis_keys.QUEUE, connection=connection, serializer="json")
        for job_id, priority in (("a", 0), ("b", 5), ("c", 0), ("d", 5), ("e", -5)):
            connection.hset(redis_keys.job(job_id), "priority", priority)
            queue.push_job_id(job_id)
        connection.hset(redis_keys.job("f"), "priority", 0)
        queue.push_job_id("f", at_front=True)
        waiting = [job_id.decode() for job_id in connection.lrange(redis_keys.QUEUE_LIST, 0, -1)]
    assert waiting == ["b", "d", "f", "a", "c", "e"]
