"""`python -m benchmarks.baselines.stub_worker`: the product's worker around a stub pipeline.

It shows what everything but the pipeline costs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from models import UnCLIP
from models.row import Row
from worker import __main__ as worker


class StubPipeline(UnCLIP):
    """The default checkpoint's parameters and plans; each row ends as a grey image in one step."""

    def step(self, rows: Sequence[Row]) -> None:
        for row in rows:
            row.end(image=torch.zeros(3, row.parameters.size, row.parameters.size))

    def warm_up(self) -> None:
        """Do nothing: no network runs."""


if __name__ == "__main__":
    worker.main(StubPipeline)
