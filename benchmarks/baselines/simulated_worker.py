"""A pipeline that draws nothing and whose passes take as long as real ones did, so that ways of serving can be compared beside other work.

What serving adds is real: HTTP, Redis, the engine, PNGs. Only the device is imagined, and asleep.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from benchmarks.baselines.stub_worker import StubPipeline
from models.row import Row

# Seconds of a pass of one row, and what each further row adds, as a share of that. The decoder's are measured, of the default checkpoint on
# two cores of an AMD EPYC; the other seconds are such that an image of each size takes what it took there, and their shares are assumed.
PASSES = {
    "text": (0.008, 0.6),
    "prior": (0.004, 0.3),
    "decoder": (0.022, 0.55),
    "upsampler_256": (0.035, 0.9),
    "upsampler_1024": (0.43, 1.0),
}


class PacedPipeline(StubPipeline):
    """Rows go through their stages step by step, and are grey in the end."""

    def step(self, rows: Sequence[Row]) -> None:
        """Sleep for as long as the pass took."""
        alone, each = PASSES[str(rows[0].stage)]
        time.sleep(alone * (1 + each * (len(rows) - 1)))
        for row in rows:
            row.step += 1
            if row.step < row.steps:
                continue
            if row.following is None:
                row.end(image=torch.zeros(3, row.parameters.size, row.parameters.size))
            else:
                row.begin_tokens(row.following, self._steps(row.following, row.parameters))
