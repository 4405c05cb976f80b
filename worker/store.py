"""Results in an object store, as the worker writes them and clears them away. `service/store.py` reads them.

What lies there longer than results are kept goes, whoever's it was: by age alone, so nothing needs to be remembered. A bucket's own
lifecycle rule may do the same; then there is nothing left to find.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

import redis
from rq.timeouts import BaseTimeoutException

from contracts import redis_keys

log = logging.getLogger("worker.store")
PATIENCE_S = 60.0  # a store that is away for so long does not cost the drawing
SWEEP_EVERY_S = 600
OPTIONS: dict[str, dict[str, Any]] = {
    "file": {"auto_mkdir": True},
    "s3": {
        "config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 2}},
        "use_listings_cache": False,
    },
}


class StoreError(RuntimeError):
    """The store did not take a result, however often it was tried."""


class Store:
    """The store at a URL, such as file:///folder or s3://bucket/prefix."""

    def __init__(self, url: str, patience: float = PATIENCE_S) -> None:
        """ValueError where the URL will not do. Nothing is asked of the store yet."""
        try:
            from fsspec.core import url_to_fs

            if "://" not in url:
                raise ValueError("it is no URL")
            self._files, self._root = url_to_fs(url, **OPTIONS.get(url.partition("://")[0], {}))
        except (ImportError, ValueError) as error:
            kinds = "name file:///folder or s3://bucket/prefix, and install what it needs: pip install 'unclip-service[store]'"
            raise ValueError(f"{error}; {kinds}") from error
        self._patience = patience

    def put(self, contents: Mapping[str, bytes]) -> None:
        """Write results by name. A store that is away is tried again for a while; then StoreError, and the job is drawn again."""
        deadline = time.monotonic() + self._patience
        pause = 0.5
        for name, content in contents.items():
            while True:
                try:
                    self._files.pipe_file(f"{self._root}/{name}", content)
                    break
                except BaseTimeoutException:  # RQ's: the job has no more time
                    raise
                except Exception as error:  # each kind of store has errors of its own
                    if time.monotonic() + pause > deadline:
                        raise StoreError(
                            f"the object store did not take {name}: {type(error).__name__}: {error}"
                        ) from error
                    log.warning(
                        "the object store does not take %s, which is tried again: %s", name, error
                    )
                    time.sleep(pause)
                    pause = min(pause * 2, 10.0)

    def sweep(self, seconds: float) -> int:
        """Remove what has lain there for longer, and tell how many results that were."""
        before = time.time() - seconds
        everything = f"{self._root}/{redis_keys.RESULTS_PREFIX}"
        old = [
            path
            for path, info in self._files.find(everything, detail=True).items()
            if _written_at(info) < before
        ]
        if old:
            self._files.rm(old)
        if "file" in self._files.protocol:  # which alone has folders, empty ones too
            for folder in {path.rpartition("/")[0] for path in old} - {everything}:
                try:
                    self._files.rmdir(folder)
                except OSError:  # something of the job is younger
                    continue
        return len(old)


def keep_swept(store: Store, connection: redis.Redis, ttl: int) -> None:
    """Sweep now and then, for ever; of several workers one each time. To be called in a thread."""
    while True:
        try:
            if connection.set(redis_keys.CLEANUP_LOCK, 1, nx=True, ex=SWEEP_EVERY_S):
                store.sweep(ttl + SWEEP_EVERY_S)  # a result is written a little before its job ends
        except Exception as error:
            log.warning("the object store is swept later: %s: %s", type(error).__name__, error)
        time.sleep(SWEEP_EVERY_S / 2)


def sweep_beside(store: Store, connection: redis.Redis, ttl: int) -> None:
    """Let `keep_swept` run beside the worker, until its process ends."""
    threading.Thread(
        target=keep_swept, args=(store, connection, ttl), name="sweep", daemon=True
    ).start()


def _written_at(info: Mapping[str, Any]) -> float:
    """Seconds since 1970, by what a file system or S3 says of a file."""
    return float(info["mtime"] if "mtime" in info else info["LastModified"].timestamp())
