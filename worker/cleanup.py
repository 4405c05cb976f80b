"""Deletion of expired images from the object store, in a thread of each worker."""

from __future__ import annotations

import logging
import threading
import time

import redis

from contracts import redis_keys
from infra.object_store import ObjectStore

log = logging.getLogger(__name__)
INTERVAL_S = 600


def start_cleanup_thread(store: ObjectStore, connection: redis.Redis, ttl_s: int) -> None:
    """Delete expired images in a daemon thread until the process ends."""
    threading.Thread(
        target=delete_expired_periodically,
        args=(store, connection, ttl_s),
        name="cleanup",
        daemon=True,
    ).start()


def delete_expired_periodically(store: ObjectStore, connection: redis.Redis, ttl_s: int) -> None:
    """Delete expired images every `INTERVAL_S` seconds. Never returns.

    A lock in Redis lets one of several workers do it each time.

    ttl_s: seconds that an ended job's images are stored.
    """
    while True:
        try:
            if connection.set(redis_keys.CLEANUP_LOCK, 1, nx=True, ex=INTERVAL_S):
                # An image is written a little before its job ends.
                store.delete_expired(ttl_s + INTERVAL_S)
        except Exception as error:
            log.warning(
                "cannot delete expired images, retrying later: %s: %s", type(error).__name__, error
            )
        time.sleep(INTERVAL_S / 2)
