"""Results in an object store, as the service reads them. `worker/store.py` writes them; both call them by contracts/redis_keys.py."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fastapi.concurrency import run_in_threadpool

from service.api.problems import ProblemError

log = logging.getLogger("service.store")
CHUNK = 1 << 18
# Much shorter than botocore's own, which would hold an answer for minutes. Nothing is listed, so no listings are kept.
OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "config_kwargs": {"connect_timeout": 3, "read_timeout": 10, "retries": {"max_attempts": 1}},
        "use_listings_cache": False,
    }
}


@dataclass(frozen=True)
class Stored:
    """A result that is there: its size in bytes, and its content piece by piece."""

    size: int
    chunks: Iterator[bytes]


class Store:
    """The store at a URL, such as file:///folder or s3://bucket/prefix."""

    def __init__(self, url: str) -> None:
        """ValueError where the URL will not do. Nothing is asked of the store yet."""
        try:
            from fsspec.core import url_to_fs

            if "://" not in url:
                raise ValueError("it is no URL")
            self._files, self._root = url_to_fs(url, **OPTIONS.get(url.partition("://")[0], {}))
        except (ImportError, ValueError) as error:
            kinds = "name file:///folder or s3://bucket/prefix, and install what it needs: pip install 'unclip-service[store]'"
            raise ValueError(f"{error}; {kinds}") from error

    async def open(self, name: str) -> Stored | None:
        """A result; None where there is none. ProblemError 503 where the store does not answer."""
        try:
            file = await run_in_threadpool(self._files.open, f"{self._root}/{name}", "rb")
        except FileNotFoundError:
            return None
        except Exception as error:  # each kind of store has errors of its own
            raise _away(error) from error
        return Stored(int(file.size), _chunks(file))

    async def read(self, name: str) -> bytes | None:
        """A whole result, as `open` finds it."""
        stored = await self.open(name)
        try:
            return None if stored is None else await run_in_threadpool(b"".join, stored.chunks)
        except Exception as error:
            raise _away(error) from error


def _chunks(file: Any) -> Iterator[bytes]:
    with file:
        while chunk := file.read(CHUNK):
            yield bytes(chunk)


def _away(error: Exception) -> ProblemError:
    log.warning("the object store does not answer: %s: %s", type(error).__name__, error)
    detail = "The object store that holds this does not answer. The job is well; ask again shortly."
    return ProblemError(503, detail, headers={"Retry-After": "5"})
