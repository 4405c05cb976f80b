"""What the service does beside answering: for as long as it runs, and not a moment longer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

log = logging.getLogger("service.background")
Work = Callable[[asyncio.Event], Coroutine[Any, Any, None]]


@asynccontextmanager
async def background(*work: Work) -> AsyncIterator[None]:
    """Let these run beside the block. Each is given an event that is set at the block's end, and is awaited then: a cancellation would
    not do, as redis-py loses some. One that breaks before is logged."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(_logged(one, stop)) for one in work]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def rest(stop: asyncio.Event, seconds: float) -> None:
    """Sleep, but not beyond the end."""
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


async def _logged(work: Work, stop: asyncio.Event) -> None:
    try:
        await work(stop)
    except Exception:
        log.exception("%r ended by an error", work)
