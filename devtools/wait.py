"""Wait for a condition by polling."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

TIMEOUT_S = 180.0  # an idle machine needs seconds, a busy one may need minutes


def wait_until(
    condition: Callable[[], T],
    description: str = "the condition holds",
    *,
    timeout_s: float = TIMEOUT_S,
    poll_s: float = 0.05,
) -> T:
    """Call `condition` until its value is true, and return that value.

    Raises:
        TimeoutError: `condition` stayed false for `timeout_s` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"timed out after {timeout_s:.0f} s, waiting until {description}")
        time.sleep(poll_s)
    return value


async def wait_until_async(
    condition: Callable[[], T],
    description: str = "the condition holds",
    *,
    timeout_s: float = TIMEOUT_S,
    poll_s: float = 0.05,
) -> T:
    """Do what `wait_until` does without blocking the event loop."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"timed out after {timeout_s:.0f} s, waiting until {description}")
        await asyncio.sleep(poll_s)
    return value
