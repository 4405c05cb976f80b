"""What the process tells its allocator, and how many rows the device has room for."""

from __future__ import annotations

import ctypes
import logging
from typing import Protocol

import torch

from models import UnCLIP

log = logging.getLogger("worker.engine.memory")
# Of the free memory that a pass may take: rows in flight hold some as well, and what is freed comes in pieces.
SHARE = 0.8
# glibc's mallopt parameters (malloc.h).
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
_ARENA_MAX = -8


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed, for the next pass, which wants as much; False where there is no glibc.

    It gives blocks above 32 MiB back at once, and the kernel clears each page again when they are next asked for: on activations of
    40 MB a group norm took 31 ms in place of 5. One arena, because only the first can grow in place."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(
        bool(mallopt(name, value))
        for name, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1))
    )


def fitted(limits: dict[str, int], pipeline: UnCLIP, meter: Meter | None) -> dict[str, int]:
    """Most rows of a pass by stage: `limits`, less where the device has no room for as many.

    What a row takes is measured by drawing one image and then two, of the largest size. Without a meter, on a CPU, the limits stay as
    they are: they go by pixels, and whoever has little memory sets UNCLIP_MAX_BATCH."""
    if meter is None:
        return limits
    one, two = (peaks(pipeline, count, meter) for count in (1, 2))
    free = meter.free() * SHARE
    found = dict(limits)
    for stage in one:
        found[stage] = rows_that_fit(free, one[stage], two[stage], limits[stage])
    log.info(
        "rows of one pass, for %.0f MiB free: %s",
        free / 2**20,
        {stage: found[stage] for stage in one},
    )
    return found


def rows_that_fit(free: float, one: int, two: int, most: int) -> int:
    """How many rows fit into `free` bytes where one takes `one` bytes and two take `two`; at least 1 and at most `most`."""
    a_row = two - one
    if a_row <= 0:
        return most
    return max(1, min(most, int((free - (one - a_row)) // a_row)))


def peaks(pipeline: UnCLIP, count: int, meter: Meter) -> dict[str, int]:
    """Bytes that a step of so many rows takes at most beyond what is held before it, by stage."""
    most: dict[str, int] = {}
    for prior in pipeline.priors:
        rows = pipeline.short_rows(count, size=pipeline.sizes[-1], prior=prior)
        while (stage := rows[0].stage) is not None:
            meter.begin()
            pipeline.step(rows)
            most[stage] = max(most.get(stage, 0), meter.peak())
    return most


class Meter(Protocol):
    """What a device tells of its memory, in bytes."""

    def begin(self) -> None:
        """From here on peaks count."""

    def peak(self) -> int:
        """The most that was held since `begin`, beyond what was held then."""

    def free(self) -> int:
        """What could still be had."""


class CudaMeter:
    """A GPU, as torch's allocator sees it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._before = 0

    def begin(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)
        self._before = torch.cuda.memory_allocated(self.device)

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self.device) - self._before

    def free(self) -> int:
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(self.device)[0]


def meter_of(device: torch.device) -> Meter | None:
    """The meter of a device that has one."""
    return CudaMeter(device) if device.type == "cuda" else None
