"""Conversion of images between bytes and the range of the networks."""

from __future__ import annotations

import torch
from torch import Tensor


def to_uint8(images: Tensor) -> Tensor:
    """Convert images in [-1, 1] to bytes, rounded and clamped."""
    return images.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def to_float(images: Tensor) -> Tensor:
    """Convert bytes to floats in [-1, 1]."""
    return images.float().div(127.5).sub(1)
