"""Memory of a process that handles large blocks for a moment, such as decoded images."""

from __future__ import annotations

import ctypes

# Parameter of glibc's mallopt (malloc.h).
_M_MMAP_THRESHOLD = -3
LARGE_BLOCK_BYTES = 1 << 20


def return_freed_memory() -> bool:
    """Make glibc return large freed blocks to the kernel at once; return False without glibc.

    By default it raises its threshold with the first large block that is freed, and keeps later
    ones: after three requests of 1 GiB a service kept 2.5 GiB.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES))
