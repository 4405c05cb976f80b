"""Images and animations in the object store, read without blocking the event loop."""

from __future__ import annotations

import logging

from fastapi.concurrency import run_in_threadpool

from infra.object_store import ObjectStore, ObjectStoreError, StoredObject
from service.errors import ObjectStoreDown

log = logging.getLogger(__name__)
# botocore's own timeouts would delay a response by minutes.
CONNECT_TIMEOUT_S = 3
READ_TIMEOUT_S = 10


class ResultStore:
    """Read results from an object store. Errors of the store become ObjectStoreDown."""

    def __init__(self, url: str) -> None:
        self._store = ObjectStore(
            url,
            connect_timeout_s=CONNECT_TIMEOUT_S,
            read_timeout_s=READ_TIMEOUT_S,
            max_attempts=1,
        )

    async def open(self, name: str) -> StoredObject | None:
        """Open a result for streaming, None if it does not exist. Raises ObjectStoreDown."""
        try:
            return await run_in_threadpool(self._store.open, name)
        except ObjectStoreError as error:
            raise _unavailable(error) from error

    async def read(self, name: str) -> bytes | None:
        """Return a whole result, None if it does not exist. Raises ObjectStoreDown."""
        try:
            return await run_in_threadpool(self._store.read, name)
        except ObjectStoreError as error:
            raise _unavailable(error) from error


def _unavailable(error: ObjectStoreError) -> ObjectStoreDown:
    log.warning("the object store does not respond: %s", error)
    return ObjectStoreDown(
        "The object store is unavailable; the job is not affected. Retry shortly."
    )
