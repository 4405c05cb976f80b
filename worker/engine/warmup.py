"""What is drawn before work is taken, so that no request waits for a recording."""

from __future__ import annotations

import logging

import torch

from models import UnCLIP
from models.acceleration.cuda_graphs import bucket

log = logging.getLogger("worker.engine.warmup")
# Requests at once for which passes are recorded before the first one comes; those of more are when they have come twice.
ROWS = sorted({bucket(rows) for rows in range(1, 17)})


def record_passes(pipeline: UnCLIP, limits: dict[str, int]) -> None:
    """Have the passes recorded (models/acceleration/cuda_graphs.py) of as many rows as ROWS says, no more than `limits` at once. What the device has no
    memory for is not recorded."""
    try:
        for count in ROWS:
            for _ in range(2):  # recorded is what comes twice
                rows = pipeline.short_rows(count, size=pipeline.sizes[-1])
                while (stage := rows[0].stage) is not None:
                    del rows[limits[stage] :]
                    pipeline.step(rows)
    except torch.OutOfMemoryError:
        log.warning("no memory to record passes of %d rows: they are launched one by one", count)
        torch.cuda.empty_cache()
