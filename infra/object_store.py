"""Images and animations in an object store: a shared folder or an S3 bucket, by fsspec.

Objects older than a job's lifetime are deleted by age alone, so no list of them is needed. A
bucket's lifecycle rule may do the same; then nothing is left to delete.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rq.timeouts import BaseTimeoutException

from contracts import redis_keys

log = logging.getLogger(__name__)
CHUNK_BYTES = 1 << 18
FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 10.0
# Losing a finished image costs more than this wait.
RETRY_FOR_S = 60.0


class ObjectStoreError(RuntimeError):
    """The object store does not answer or refuses a request."""


@dataclass(frozen=True)
class StoredObject:
    """An object's size in bytes and its content in chunks of at most `CHUNK_BYTES`."""

    size: int
    chunks: Iterator[bytes]


class ObjectStore:
    """Read, write and expire objects by name at a URL."""

    def __init__(
        self,
        url: str,
        *,
        connect_timeout_s: float = 5,
        read_timeout_s: float = 30,
        max_attempts: int = 2,
        retry_for_s: float = RETRY_FOR_S,
    ) -> None:
        """Prepare access without sending a request.

        url: file:///folder or s3://bucket/prefix.
        connect_timeout_s, read_timeout_s, max_attempts: of one request to S3.
        retry_for_s: how long `put` retries.
        Raises ValueError if the URL is invalid or a package for it is missing.
        """
        s3_options = {
            "config_kwargs": {
                "connect_timeout": connect_timeout_s,
                "read_timeout": read_timeout_s,
                "retries": {"max_attempts": max_attempts},
            },
            "use_listings_cache": False,
        }
        options: dict[str, dict[str, Any]] = {"file": {"auto_mkdir": True}, "s3": s3_options}
        try:
            from fsspec.core import url_to_fs

            if "://" not in url:
                raise ValueError("it is not a URL")
            self._files, self._root = url_to_fs(url, **options.get(url.partition("://")[0], {}))
        except (ImportError, ValueError) as error:
            raise ValueError(
                f"{error}; use file:///folder or s3://bucket/prefix, and install the packages for "
                "it: pip install 'unclip-service[store]'"
            ) from error
        if hasattr(self._files, "retries"):
            # s3fs repeats what botocore has given up, five times by default.
            self._files.retries = max_attempts
        self._retry_for_s = retry_for_s

    def open(self, name: str) -> StoredObject | None:
        """Open an object for streaming, None if it does not exist. Blocking.

        Raises ObjectStoreError if the store does not answer.
        """
        try:
            file = self._files.open(f"{self._root}/{name}", "rb")
        except FileNotFoundError:
            return None
        # Each kind of store has its own errors.
        except Exception as error:
            raise ObjectStoreError(f"{type(error).__name__}: {error}") from error
        return StoredObject(int(file.size), _chunks(file))

    def read(self, name: str) -> bytes | None:
        """Return a whole object, None if it does not exist. Blocking.

        Raises ObjectStoreError if the store does not answer.
        """
        stored = self.open(name)
        if stored is None:
            return None
        try:
            return b"".join(stored.chunks)
        except Exception as error:
            raise ObjectStoreError(f"{type(error).__name__}: {error}") from error

    def put(self, contents: Mapping[str, bytes]) -> None:
        """Write objects by name, with retries. Blocking.

        Raises ObjectStoreError if the store still refuses after `retry_for_s` seconds.
        """
        deadline = time.monotonic() + self._retry_for_s
        for name, content in contents.items():
            self._put_one(name, content, deadline)

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects by name; a missing one is no error. Blocking.

        Raises ObjectStoreError if the store does not answer.
        """
        for name in names:
            try:
                self._files.rm_file(f"{self._root}/{name}")
            except FileNotFoundError:
                continue
            except BaseTimeoutException:
                raise
            except Exception as error:
                raise ObjectStoreError(f"{type(error).__name__}: {error}") from error

    def delete_expired(self, max_age_s: float) -> int:
        """Delete results older than this many seconds and return their number. Blocking."""
        oldest = time.time() - max_age_s
        results = f"{self._root}/{redis_keys.RESULTS_PREFIX}"
        expired = [
            path
            for path, info in self._files.find(results, detail=True).items()
            if modified_at(info) < oldest
        ]
        if expired:
            self._files.rm(expired)
        # Only a file system has folders, and keeps empty ones.
        if "file" in self._files.protocol:
            for folder in {path.rpartition("/")[0] for path in expired} - {results}:
                try:
                    self._files.rmdir(folder)
                # The folder holds a younger result of the same job.
                except OSError:
                    continue
        return len(expired)

    def _put_one(self, name: str, content: bytes, deadline: float) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                self._files.pipe_file(f"{self._root}/{name}", content)
                return
            # RQ raises this in the job's thread when the job's time is over.
            except BaseTimeoutException:
                raise
            except Exception as error:
                if time.monotonic() + pause_s > deadline:
                    raise ObjectStoreError(
                        f"the object store refused {name}: {type(error).__name__}: {error}"
                    ) from error
                log.warning("the object store refused %s, retrying: %s", name, error)
                time.sleep(pause_s)
                pause_s = min(pause_s * 2, MAX_PAUSE_S)


def _chunks(file: Any) -> Iterator[bytes]:
    with file:
        while chunk := file.read(CHUNK_BYTES):
            yield bytes(chunk)


def modified_at(info: Mapping[str, Any]) -> float:
    """Return when an object was written, in seconds since 1970."""
    # A file system has mtime, S3 LastModified.
    return float(info["mtime"] if "mtime" in info else info["LastModified"].timestamp())
