"""Copies from host to device that do not wait for the device."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device_async(values: Tensor, device: torch.device) -> Tensor:
    """Copy a host tensor to the device without waiting for the device's pending work."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)
