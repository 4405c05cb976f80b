"""What is drawn before work is taken, so that no request pays for what comes first once: memory measured, and passes recorded."""

from __future__ import annotations

import logging
from typing import Any

import torch

from models import UnCLIP
from models.row import Row

log = logging.getLogger("worker.warm_up")
# Requests at once for which passes are recorded before the first one comes; those of more are when they have come twice.
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16)


def short_rows(stack: UnCLIP, count: int, prior: str | None = None) -> list[Row]:
    """Rows that go through every network, with as few steps as do."""
    steps: dict[str, Any] = {f"{part}_num_inference_steps": 2 for part in ("prior", "decoder", "upsampler")}
    parameters = stack.resolve(size=stack.sizes[-1], prior=prior, **steps)
    return [stack.row("warm-up", seed, parameters) for seed in range(count)]


def record_passes(stack: UnCLIP, limits: dict[str, int]) -> None:
    """Have the passes recorded (models/graphs.py) of as many rows as ROWS says, no more than `limits` at once. What the device has no
    memory for is not recorded."""
    try:
        for count in ROWS:
            for _ in range(2):  # recorded is what comes twice
                rows = short_rows(stack, count)
                while (stage := rows[0].stage) is not None:
                    del rows[limits[stage] :]
                    stack.step(rows)
    except torch.OutOfMemoryError:
        log.warning("no memory to record passes of %d rows: they are launched one by one", count)
        torch.cuda.empty_cache()
