"""Scheduling policy of the engine: which network runs next, and which rows share its pass.

The policy has no thread, no clock and no tensors. The engine passes in the rows and the times, so
that a test can replay any sequence of arrivals.

Shortest job first by total estimated device seconds; ties go to the row with the least left. A row
skipped for longer than its own total goes first once, so that none starves. Longer rows share a
short row's pass while it stays within MAX_PASS_SLOWDOWN times a single-row pass or
MAX_PASS_STRETCH times the pass without them (`cost_model.py`). With offloading, a network keeps
running for `min_steps_per_network` engine steps, because loading another one takes longer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from worker.engine.cost_model import CostModel

if TYPE_CHECKING:
    from models.row import Row
    from worker.engine.tickets import Ticket

# Rows with up to this many times the work of the first row share its pass at any cost. Chosen by
# simulation: see "What was tried" in benchmarks/README.md.
SIMILAR_WORK_RATIO = 2.0


@dataclass(eq=False)
class Entry:
    """A row in the engine, with what the policy knows about it."""

    row: Row
    ticket: Ticket
    # Each level of priority halves the weight of the row's work.
    priority_weight: float
    # When its last step ended (or it arrived), by the clock and by the device's busy seconds.
    last_step_at: float
    busy_at_last_step: float


@dataclass(frozen=True)
class Batch:
    """Rows that share one forward pass through the network of `stage`."""

    stage: str
    entries: Sequence[Entry]
    # Cost units of each row's step.
    costs: Sequence[float]

    @classmethod
    def from_entries(cls, entries: Sequence[Entry]) -> Self:
        """Make a batch of rows that all need the same stage."""
        stage = str(entries[0].row.stage)
        costs = [entry.row.stage_costs[stage] / entry.row.steps for entry in entries]
        return cls(stage, entries, costs)

    @property
    def rows(self) -> list[Row]:
        """The batch as the pipeline takes it."""
        return [entry.row for entry in self.entries]


class Scheduler:
    """Choose the rows of each engine step and learn from how long it took."""

    def __init__(self, limits: Mapping[str, int], min_steps_per_network: int = 1) -> None:
        """`limits`: maximum rows of one pass by stage.

        `min_steps_per_network`: engine steps that a network keeps running while rows need it.
        """
        self.limits = dict(limits)
        self.min_steps_per_network = min_steps_per_network
        self.cost_model = CostModel()
        self._stage = ""
        self._steps_left = 0

    def add(self, row: Row, ticket: Ticket, priority: int, arrived_at: float) -> Entry:
        """Return the entry of a new row; each level of `priority` counts as half the work."""
        return Entry(row, ticket, 2.0**-priority, arrived_at, self.cost_model.busy_s)

    def schedule(self, entries: Sequence[Entry]) -> Batch | None:
        """Choose the rows of the next engine step; None without entries."""
        if not entries:
            return None
        ranked = sorted(entries, key=self._rank)
        if self._steps_left == 0 or all(entry.row.stage != self._stage for entry in ranked):
            self._stage = str(ranked[0].row.stage)
            self._steps_left = self.min_steps_per_network
        self._steps_left -= 1
        return Batch.from_entries(
            self._fill([entry for entry in ranked if entry.row.stage == self._stage])
        )

    def update(self, batch: Batch, started_at: float, ended_at: float) -> None:
        """Learn from a pass; times are in seconds of the same clock as `add`."""
        seconds = ended_at - started_at
        self.cost_model.add_pass(batch.stage, len(batch.entries), seconds)
        for entry, cost in zip(batch.entries, batch.costs, strict=True):
            elapsed = ended_at - entry.last_step_at
            self.cost_model.add_row(batch.stage, cost, seconds, elapsed)
            entry.last_step_at = ended_at
            entry.busy_at_last_step = self.cost_model.busy_s

    def halve_limit(self, stage: str, rows: int) -> int:
        """Lower a stage's limit to half of the rows that did not fit into memory, and return it."""
        self.limits[stage] = rows // 2
        return self.limits[stage]

    def _rank(self, entry: Entry) -> tuple[bool, float, float]:
        """Sort key: starving rows first, then the least total work, then the least left."""
        total_s = self.cost_model.device_seconds(entry.row.stage_costs) * entry.priority_weight
        left_s = self.cost_model.device_seconds(entry.row.remaining_cost())
        skipped_s = self.cost_model.busy_s - entry.busy_at_last_step
        return skipped_s <= total_s, total_s, left_s

    def _fill(self, ranked: Sequence[Entry]) -> list[Entry]:
        """Take the first row, similar ones up to the limit, and longer ones as far as they fit."""
        limit = self.limits[self._stage]
        first_row_s = self.cost_model.device_seconds(ranked[0].row.stage_costs)
        similar: list[Entry] = []
        longer: list[Entry] = []
        for entry in ranked:
            total_s = self.cost_model.device_seconds(entry.row.stage_costs)
            (similar if total_s <= SIMILAR_WORK_RATIO * first_row_s else longer).append(entry)
        del similar[limit:]
        extra = self.cost_model.extra_rows(self._stage, len(similar))
        return similar + longer[: min(limit - len(similar), extra)]
