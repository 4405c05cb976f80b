"""The pipeline that the settings name, loaded; and what stands in the way of it, in words."""

from __future__ import annotations

import sys

import torch

from models import CheckpointError, UnCLIP
from worker.settings import Settings


def load(settings: Settings, pipeline_class: type[UnCLIP] = UnCLIP) -> UnCLIP:
    """The pipeline on its device. Ends the process where the device or the checkpoint will not do."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = (
        ("cuda" if torch.cuda.is_available() else "cpu")
        if settings.device == "auto"
        else settings.device
    )
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for CUDA
        sys.exit(
            f"The device will not do: UNCLIP_DEVICE is {device!r}, and torch says: {str(error).splitlines()[0]}"
        )
    # A CPU's memory is the host's: there is nowhere to wait.
    budget = (
        None
        if settings.device_memory is None or torch.device(device).type == "cpu"
        else settings.device_memory * 2**20
    )
    try:
        return pipeline_class.load(
            settings.checkpoint,
            device,
            getattr(torch, settings.dtype),
            upsampler=settings.upsampler,
            offload_budget_bytes=budget,
        )
    except CheckpointError as error:
        sys.exit(f"The checkpoint will not do: {error}")
