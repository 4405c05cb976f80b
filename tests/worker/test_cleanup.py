"""Deletion of expired images, by one of several workers at a time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import redis

from devtools.redis_server import RedisServer
from infra.object_store import ObjectStore
from worker.cleanup import INTERVAL_S, delete_expired_periodically


def test_one_of_several_workers_cleans_up(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock covers one interval, and an object store that is down does not end the thread."""
    ages = list[float]()
    pauses = list[float]()

    class FailingStore(ObjectStore):
        def delete_expired(self, max_age_s: float) -> int:
            ages.append(max_age_s)
            raise OSError("down")

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise SystemExit

    monkeypatch.setattr(time, "sleep", sleep)
    with redis.Redis.from_url(redis_server.url) as connection, pytest.raises(SystemExit):
        delete_expired_periodically(FailingStore(f"file://{tmp_path}"), connection, 100)
    assert ages == [100 + INTERVAL_S]
    assert pauses == [INTERVAL_S / 2] * 3
