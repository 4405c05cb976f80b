"""Tickets: the handle that a job holds on its rows while the engine runs them."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.row import Row


class Ticket:
    """The rows of one `Engine.submit`. `done` is set when every row has ended or was cancelled."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = tuple(rows)
        self.done = threading.Event()
        self.is_cancelled = False
        # The engine logs failures of these rows with the job id and request id of the submitter.
        self.context = contextvars.copy_context()
        # By stage: start of the first pass and end of the last one, by time.perf_counter().
        self.stage_times: dict[str, tuple[float, float]] = {}

    @property
    def fraction(self) -> float:
        """Share of the work of all rows that is done, 0 to 1."""
        return sum(row.fraction for row in self.rows) / len(self.rows)

    @property
    def slowest_row(self) -> Row | None:
        """The row with the most left to do; None when all have ended."""
        running = [row for row in self.rows if row.stage is not None]
        return min(running, key=lambda row: row.fraction, default=None)

    def add_pass(self, stage: str, started_at: float, ended_at: float) -> None:
        """Record a pass of some of the rows."""
        first_started_at, _ = self.stage_times.get(stage, (started_at, ended_at))
        self.stage_times[stage] = first_started_at, ended_at
