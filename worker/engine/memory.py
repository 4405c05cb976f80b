"""Memory of the device: how many rows of each stage fit into one pass, and malloc settings."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Mapping
from typing import Protocol

import torch

from models import UnCLIP
from models.stages import STAGES

log = logging.getLogger("worker.engine.memory")
# Share of the free memory that a pass may take: rows in flight hold some too, and freed memory is
# fragmented.
USABLE_SHARE = 0.8
# Parameters of glibc's mallopt (malloc.h).
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8


def batch_limits(max_batch_size: int) -> dict[str, int]:
    """Return the maximum rows of one pass by stage: `max_batch_size` at 64², fewer above.

    The limit falls with the number of pixels, and is at least 1.
    """
    return {stage.name: max(1, max_batch_size // stage.pixel_ratio) for stage in STAGES}


def tune_malloc() -> bool:
    """Make glibc keep freed memory for the next pass; return False without glibc.

    By default glibc returns blocks above 32 MiB to the kernel at once, which clears each page again
    on the next allocation: with activations of 40 MB a group norm took 31 ms instead of 5. There is
    one arena, because only the first one can grow in place.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    options = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1))
    return all(bool(mallopt(name, value)) for name, value in options)


def fit_batch_limits(
    limits: Mapping[str, int], pipeline: UnCLIP, meter: MemoryMeter | None
) -> dict[str, int]:
    """Lower `limits` (maximum rows by stage) to what fits into the device's free memory.

    The memory of a row is measured by generating one image and then two, of the largest size.
    Without a meter (on a CPU) the limits stay: lower UNCLIP_MAX_BATCH_SIZE to save host memory.
    """
    if meter is None:
        return dict(limits)
    peaks = {num_rows: measure_peaks(pipeline, num_rows, meter) for num_rows in (1, 2)}
    free_bytes = meter.free_bytes() * USABLE_SHARE
    fitted = {
        stage: max_rows(free_bytes, peaks[1][stage], peaks[2][stage], limits[stage])
        for stage in peaks[1]
    }
    log.info("maximum rows of one pass, for %.0f MiB free: %s", free_bytes / 2**20, fitted)
    return {**limits, **fitted}


def max_rows(free_bytes: float, one_row_bytes: int, two_rows_bytes: int, limit: int) -> int:
    """Return how many rows fit into `free_bytes`, from 1 to `limit`.

    The memory of a pass is linear in its rows, so the peaks of one and two rows determine it.
    """
    row_bytes = two_rows_bytes - one_row_bytes
    if row_bytes <= 0:
        return limit
    fixed_bytes = one_row_bytes - row_bytes
    return max(1, min(limit, int((free_bytes - fixed_bytes) // row_bytes)))


def measure_peaks(pipeline: UnCLIP, num_rows: int, meter: MemoryMeter) -> dict[str, int]:
    """Measure the peak bytes of a step of `num_rows` rows, by stage, beyond those before it."""
    peaks: dict[str, int] = {}
    for prior in pipeline.priors:
        rows = pipeline.warmup_rows(num_rows, size=pipeline.sizes[-1], prior=prior)
        while (stage := rows[0].stage) is not None:
            meter.reset()
            pipeline.step(rows)
            peaks[stage] = max(peaks.get(stage, 0), meter.peak_bytes())
    return peaks


class MemoryMeter(Protocol):
    """Memory statistics of a device, in bytes."""

    def reset(self) -> None:
        """Start a measurement."""

    def peak_bytes(self) -> int:
        """Return the peak since `reset`, beyond what was allocated then."""

    def free_bytes(self) -> int:
        """Return what can still be allocated."""


class CudaMemoryMeter:
    """Memory statistics of a GPU, from torch's caching allocator."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._allocated_bytes = 0

    def reset(self) -> None:
        """Start a measurement."""
        torch.cuda.reset_peak_memory_stats(self.device)
        self._allocated_bytes = torch.cuda.memory_allocated(self.device)

    def peak_bytes(self) -> int:
        """Return the peak since `reset`, beyond what was allocated then."""
        return torch.cuda.max_memory_allocated(self.device) - self._allocated_bytes

    def free_bytes(self) -> int:
        """Return the device's free memory, after emptying torch's cache."""
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(self.device)[0]


def memory_meter(device: torch.device) -> MemoryMeter | None:
    """Return the memory meter of a GPU; None for a CPU."""
    return CudaMemoryMeter(device) if device.type == "cuda" else None
