"""Images and animations in the object store, read without blocking the event loop."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

from infra.object_store import ObjectStore, ObjectStoreError
from service.errors import ObjectStoreDown
from service.storage_threads import StorageThreads

log = logging.getLogger(__name__)
# botocore's own timeouts would delay a response by minutes.
CONNECT_TIMEOUT_S = 3
READ_TIMEOUT_S = 7


@dataclass(frozen=True)
class ResultStream:
    """A result's size in bytes and its content in chunks."""

    size: int
    chunks: AsyncIterator[bytes]


class ResultStore:
    """Read results from an object store. Errors of the store become ObjectStoreDown."""

    def __init__(self, url: str) -> None:
        self._store = ObjectStore(
            url,
            connect_timeout_s=CONNECT_TIMEOUT_S,
            read_timeout_s=READ_TIMEOUT_S,
            max_attempts=1,
        )
        self._threads = StorageThreads()

    async def open(self, name: str) -> ResultStream | None:
        """Open a result for streaming, None if it does not exist. Raises ObjectStoreDown."""
        try:
            stored = await self._threads.run(self._store.open, name)
        except (ObjectStoreError, TimeoutError) as error:
            raise _unavailable(error) from error
        if stored is None:
            return None
        return ResultStream(stored.size, self._threads.iterate(stored.chunks))

    async def read(self, name: str) -> bytes | None:
        """Return a whole result, None if it does not exist. Raises ObjectStoreDown."""
        try:
            return await self._threads.run(self._store.read, name)
        except (ObjectStoreError, TimeoutError) as error:
            raise _unavailable(error) from error


def _unavailable(error: Exception) -> ObjectStoreDown:
    log.warning("the object store does not respond: %s", error or type(error).__name__)
    return ObjectStoreDown(
        "The object store is unavailable; the job is not affected. Retry shortly."
    )
