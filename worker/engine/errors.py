"""Errors of forward passes: recognise exhausted memory, and describe a failed row to the client."""

from __future__ import annotations

import torch

# Parts of messages of plain RuntimeErrors. The CPU allocator's message differs by system; the last
# one is cuBLAS's.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an exception means that host or device memory is exhausted."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    message = str(error)
    return any(part in message for part in _OUT_OF_MEMORY)


def describe_failure(stage: str, error: Exception) -> str:
    """Return why a row failed in `stage`, in one clause for the job's error detail."""
    if is_out_of_memory(error):
        return f"stage {stage} does not fit into this worker's device memory, even for one image"
    return f"stage {stage} failed: {type(error).__name__}: {error}"
