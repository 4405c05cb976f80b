"""What the process tells its allocator, and how many rows the device has room for."""

from __future__ import annotations

import ctypes

# glibc's mallopt parameters (malloc.h).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed, for the next pass, which wants as much; False where there is no glibc.

    It gives back blocks above 32 MiB at once, and the kernel clears each page again when it is next asked for: measured on activations of
    40 MB, a group norm took 31 ms in place of 5. One arena, because only the first can grow in place. To be called before torch allocates."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(name, value) for name, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1))])
