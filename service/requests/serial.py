"""Threads for what takes much memory: images and large bodies, one at a time in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread

P = ParamSpec("P")
T = TypeVar("T")
# Of one decoded image of 25 megapixels several copies exist for a moment, 400 MiB in all.
_ONE_AT_A_TIME = CapacityLimiter(1)


async def run_serially(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking function in a thread while no other call of this process runs."""
    return await to_thread.run_sync(lambda: function(*args, **kwargs), limiter=_ONE_AT_A_TIME)
