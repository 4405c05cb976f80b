"""`python -m benchmarks.baselines.stub_worker`: the product's worker around a pipeline that draws nothing, to see what everything else costs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from models import UnCLIP
from models.row import Row
from worker import __main__ as worker


class StubPipeline(UnCLIP):
    """The embedded checkpoint's parameters and plans; each row is grey after one step."""

    def step(self, rows: Sequence[Row]) -> None:
        for row in rows:
            row.end(image=torch.zeros(3, row.parameters.size, row.parameters.size))

    def warm_up(self) -> None:
        """There is nothing to warm."""


if __name__ == "__main__":
    worker.main(StubPipeline)
