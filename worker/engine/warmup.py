"""CUDA graph capture at start-up, so that no request waits for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch

from models import UnCLIP
from models.acceleration.cuda_graphs import bucket_size

log = logging.getLogger("worker.engine.warmup")
# Batch sizes whose passes are captured at start-up. Larger ones are captured on their second pass.
WARMUP_BATCH_SIZES = sorted({bucket_size(rows) for rows in range(1, 17)})


def capture_graphs(pipeline: UnCLIP, limits: Mapping[str, int]) -> None:
    """Capture the passes of WARMUP_BATCH_SIZES rows, at most `limits` rows by stage.

    Sizes that do not fit into device memory are not captured and run eagerly.
    """
    for batch_size in WARMUP_BATCH_SIZES:
        try:
            # A pass is captured the second time it occurs (models/acceleration/cuda_graphs.py).
            for _ in range(2):
                _run_short_rows(pipeline, batch_size, limits)
        except torch.OutOfMemoryError:
            log.warning("no memory to capture passes of %d rows; they run eagerly", batch_size)
            torch.cuda.empty_cache()
            return


def _run_short_rows(pipeline: UnCLIP, batch_size: int, limits: Mapping[str, int]) -> None:
    rows = pipeline.warmup_rows(batch_size, size=pipeline.sizes[-1])
    while (stage := rows[0].stage) is not None:
        del rows[limits[stage] :]
        pipeline.step(rows)
