"""Which errors mean that memory is exhausted, and what a client reads about them."""

from __future__ import annotations

import pytest
import torch

from worker.engine.errors import describe_failure, is_out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("cuBLAS: CUBLAS_STATUS_ALLOC_FAILED"),
    ],
)
def test_errors_of_allocators_are_recognised(error: Exception) -> None:
    assert is_out_of_memory(error)


def test_an_allocation_that_this_machine_refuses_is_recognised() -> None:
    """The message is that of the CPU allocator on this system."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_other_errors_are_not_taken_for_it() -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert not is_out_of_memory(error)
    assert describe_failure("prior", error) == (
        "stage prior failed: RuntimeError: mat1 and mat2 shapes cannot be multiplied"
    )
