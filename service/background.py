"""Background tasks that run while the service does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

log = logging.getLogger("service.background")
BackgroundTask = Callable[[asyncio.Event], Coroutine[Any, Any, None]]


@asynccontextmanager
async def run_in_background(*tasks: BackgroundTask) -> AsyncIterator[None]:
    """Run tasks while the block runs.

    Each task gets an event that is set when the block ends, and the block waits for it to return.
    Tasks are not cancelled, because redis-py loses some cancellations. An error of a task is
    logged.
    """
    stop = asyncio.Event()
    running = [asyncio.create_task(_run_logged(task, stop)) for task in tasks]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*running)


async def sleep_until_stop(stop: asyncio.Event, seconds: float) -> None:
    """Sleep for `seconds`, or until the event is set."""
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


async def _run_logged(task: BackgroundTask, stop: asyncio.Event) -> None:
    try:
        await task(stop)
    except Exception:
        log.exception("background task %r failed", task)
