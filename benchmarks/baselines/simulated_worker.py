"""A pipeline whose passes sleep as long as real ones took.

It compares ways of serving on a machine with other work. HTTP, Redis, the engine and the PNGs are
real; only the device is simulated.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from benchmarks.baselines.stub_worker import StubPipeline
from models.row import Row


@dataclass(frozen=True)
class PassTime:
    """Duration of a forward pass: `single_row_s`, plus `extra_row` of it for each further row."""

    single_row_s: float
    extra_row: float

    def seconds(self, num_rows: int) -> float:
        """Return the seconds of a pass of `num_rows` rows."""
        return self.single_row_s * (1 + self.extra_row * (num_rows - 1))


# The decoder's numbers are measured, with the default checkpoint on two cores of an AMD EPYC. The
# seconds of the others let an image of each size take what it took there; their extra rows are
# assumed.
PASS_TIMES = {
    "text": PassTime(0.008, 0.6),
    "prior": PassTime(0.004, 0.3),
    "decoder": PassTime(0.022, 0.55),
    "upsampler_256": PassTime(0.035, 0.9),
    "upsampler_1024": PassTime(0.43, 1.0),
}


class SimulatedPipeline(StubPipeline):
    """Rows go through all of their stages step by step, and end as grey images."""

    def step(self, rows: Sequence[Row]) -> None:
        """Sleep as long as the pass takes, and advance each row by one step."""
        time.sleep(PASS_TIMES[str(rows[0].stage)].seconds(len(rows)))
        for row in rows:
            row.step += 1
            if row.step < row.steps:
                continue
            if row.next_stage is None:
                row.end(image=torch.zeros(3, row.parameters.size, row.parameters.size))
            else:
                steps = self.stages[row.next_stage].num_steps(row.parameters)
                row.enter(row.next_stage, None, steps)
