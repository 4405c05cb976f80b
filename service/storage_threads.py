"""Threads of their own for storage that may hang, so that no other request waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")
NUM_THREADS = 8
# Clients get their response within 10 seconds.
DEADLINE_S = 8.0


class StorageThreads:
    """Run blocking functions of one storage."""

    def __init__(
        self, num_threads: int = NUM_THREADS, deadline_s: float | None = DEADLINE_S
    ) -> None:
        """Start no thread yet. `deadline_s`: limit of each call, waits for a thread included."""
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="storage")
        self._deadline_s = deadline_s

    async def run(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """Run a function and return its result. Raises TimeoutError at the deadline.

        A call that hangs keeps its thread; one that has not begun never does.
        """
        loop = asyncio.get_running_loop()
        call = loop.run_in_executor(self._threads, partial(function, *args, **options))
        async with asyncio.timeout(self._deadline_s):
            return await call

    async def iterate(self, values: Iterator[T]) -> AsyncIterator[T]:
        """Yield values as they come. Raises TimeoutError if one takes longer than the deadline."""
        end = object()
        while (value := await self.run(next, values, end)) is not end:
            yield value
