"""Fake rows and a fake pipeline, for tests of the worker's engine without tensors."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from worker.engine.core import Engine
from worker.engine.observer import EngineObserver
from worker.engine.tickets import Ticket

WAIT_S = 60.0
# Cost of one step, as `models.UnCLIP` has it.
STEP_COSTS = {"text": 0.2, "prior": 0.1, "decoder": 1.0, "upsampler_256": 2.0}


class FakeRow:
    """A row that takes a number of steps in each of its stages."""

    def __init__(self, name: str, **num_steps: int) -> None:
        self.name = name
        self.num_steps = num_steps
        self.stage_costs = {
            stage: steps * STEP_COSTS.get(stage, 1.0) for stage, steps in num_steps.items()
        }
        self.stage: str | None = next(iter(num_steps))
        self.step = 0
        self.has_image = False
        self.error: str | None = None

    @property
    def steps(self) -> int:
        return self.num_steps[str(self.stage)]

    @property
    def fraction(self) -> float:
        return 1.0 - sum(self.remaining_cost().values()) / sum(self.stage_costs.values())

    def remaining_cost(self) -> dict[str, float]:
        if self.stage is None:
            return {}
        stages = list(self.stage_costs)
        left = {stage: self.stage_costs[stage] for stage in stages[stages.index(self.stage) :]}
        left[self.stage] *= 1 - self.step / self.steps
        return left

    def advance(self) -> None:
        """Move one step, into the next stage after the last step of this one."""
        self.step += 1
        if self.step < self.steps:
            return
        stages = [*self.stage_costs, None]
        self.stage = stages[stages.index(str(self.stage)) + 1]
        self.step = 0
        self.has_image = self.stage is None

    def end(self, error: str) -> None:
        """Leave the pipeline with an error."""
        self.stage = None
        self.error = error


class FakePipeline:
    """Advance rows by one step a pass, and list the passes.

    `fail_when(stage, names)`: return an exception for a pass that is to fail. `delay_s(rows)`: how
    long a pass of that many rows takes. `on_pass(number)`: called in each pass, from 1.
    """

    def __init__(
        self,
        *,
        fail_when: Callable[[str, list[str]], Exception | None] = lambda stage, names: None,
        delay_s: Callable[[int], float] = lambda rows: 0.0,
        on_pass: Callable[[int], None] = lambda number: None,
    ) -> None:
        self.fail_when = fail_when
        self.delay_s = delay_s
        self.on_pass = on_pass
        self.passes: list[tuple[str, list[str]]] = []

    def step(self, rows: Sequence[FakeRow]) -> None:
        names = [row.name for row in rows]
        (stage,) = {str(row.stage) for row in rows}
        self.passes.append((stage, names))
        self.on_pass(len(self.passes))
        delay_s = self.delay_s(len(rows))
        if delay_s:
            time.sleep(delay_s)
        error = self.fail_when(stage, names)
        if error is not None:
            raise error
        for row in rows:
            row.advance()


class RecordingObserver(EngineObserver):
    """List the passes and errors that the engine reports."""

    def __init__(self) -> None:
        self.passes: list[tuple[str, int]] = []
        self.errors: list[tuple[str, Exception]] = []

    def pass_finished(self, stage: str, rows: int, seconds: float) -> None:
        self.passes.append((stage, rows))

    def pass_failed(self, stage: str, error: Exception) -> None:
        self.errors.append((stage, error))


class EngineHarness:
    """An engine that starts in `run`, so that rows submitted before are there at its first step."""

    def __init__(
        self,
        limits: dict[str, int],
        pipeline: FakePipeline | None = None,
        min_steps_per_network: int = 1,
    ) -> None:
        self.pipeline = pipeline or FakePipeline()
        self.observer = RecordingObserver()
        # Any: fake rows are no `models.row.Row`.
        self.engine: Any = Engine(
            self.pipeline,  # type: ignore[arg-type]
            limits,
            self.observer,
            min_steps_per_network=min_steps_per_network,
        )

    def submit(self, *rows: FakeRow, priority: int = 0) -> Ticket:
        """Add rows to the engine."""
        ticket: Ticket = self.engine.submit(rows, priority)
        return ticket

    def run(self, *tickets: Ticket) -> None:
        """Start the engine and wait for the tickets."""
        self.engine.start()
        for ticket in tickets:
            assert ticket.done.wait(WAIT_S)
