"""Number formats at the borders of the networks."""

from __future__ import annotations

import torch
from torch import Tensor


def to_float32(x: Tensor) -> Tensor:
    """Convert a half-precision output to fp32, and leave fp32 and fp64 unchanged.

    Computations between networks must not round again."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
