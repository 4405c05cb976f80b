"""Continuous (in-flight) batching: one thread owns the device.

Each engine step picks one network, batches the rows that need it up to its limit, runs one forward
pass and advances every row by one denoising step. New rows join at the next step. The policy is in
`scheduler.py`: shortest job first by total estimated device seconds, without starvation.

Errors stay with the row that causes them. A failed pass is repeated row by row; a pass that does
not fit into memory halves the stage's limit.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from models.row import Row
from worker.engine.errors import describe_failure, is_out_of_memory
from worker.engine.observer import EngineObserver
from worker.engine.scheduler import Batch, Entry, Scheduler
from worker.engine.tickets import Ticket

log = logging.getLogger("worker.engine.core")


class Pipeline(Protocol):
    """What the engine needs of `models.UnCLIP`."""

    def step(self, rows: Sequence[Row]) -> None:
        """Advance rows of one stage by one denoising step, in one forward pass."""


class Engine:
    """Own the pipeline from `run` to `stop`. Other threads may call every other method."""

    def __init__(
        self,
        pipeline: Pipeline,
        limits: Mapping[str, int],
        observer: EngineObserver | None = None,
        *,
        min_steps_per_network: int = 1,
    ) -> None:
        """`limits`: maximum rows of one pass by stage.

        `min_steps_per_network`: engine steps that a network keeps running while rows need it; more
        than 1 if networks take turns on the device.
        """
        self.pipeline = pipeline
        self.observer = observer or EngineObserver()
        self.scheduler = Scheduler(limits, min_steps_per_network)
        self._entries: list[Entry] = []
        self._changed = threading.Condition()
        self._is_stopping = False
        self._stopped = threading.Event()

    @property
    def limits(self) -> dict[str, int]:
        """Maximum rows of one pass by stage; halved after running out of memory."""
        return self.scheduler.limits

    @property
    def num_rows(self) -> int:
        """Number of rows in the engine."""
        return len(self._entries)

    def start(self) -> None:
        """Run the engine in a new thread."""
        threading.Thread(target=self.run, name="engine", daemon=True).start()

    def stop(self) -> None:
        """Stop after the current engine step; rows still in the engine end with an error."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._stopped.wait()

    def submit(self, rows: Sequence[Row], priority: int = 0) -> Ticket:
        """Add rows, which join at the next engine step.

        Each level of `priority` counts as half the work. Raises RuntimeError after `stop`.
        """
        ticket = Ticket(rows)
        with self._changed:
            if self._is_stopping:
                raise RuntimeError("the engine has stopped and accepts no more rows")
            arrived_at = time.perf_counter()
            self._entries += [self.scheduler.add(row, ticket, priority, arrived_at) for row in rows]
            self._changed.notify()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Remove a ticket's rows before the next engine step."""
        with self._changed:
            ticket.is_cancelled = True
            self._changed.notify()

    def remaining_seconds(self, ticket: Ticket) -> float | None:
        """Estimate the seconds until a ticket's slowest row ends, at the current load.

        None while one of its remaining stages has not been measured.
        """
        row = ticket.slowest_row
        costs = {} if row is None else row.remaining_cost()
        return self.scheduler.cost_model.elapsed_seconds(costs)

    def run(self) -> None:
        """Run engine steps until `stop`. Call it once, in the thread that owns the device."""
        try:
            self._run_steps()
        except BaseException:
            log.critical("the engine crashed", exc_info=True)
            self.observer.engine_crashed()
        finally:
            self._stopped.set()

    def _run_steps(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._entries or self._is_stopping)
                if self._is_stopping:
                    for entry in self._entries:
                        entry.row.end(error="the worker is stopping")
                    self._finish_rows()
                    return
                batch = self.scheduler.schedule(
                    [entry for entry in self._entries if not entry.ticket.is_cancelled]
                )
            if batch is not None:
                self._execute(batch)
            with self._changed:
                self._finish_rows()

    def _execute(self, batch: Batch) -> None:
        """Run a batch through its network and update the scheduler."""
        started_at = time.perf_counter()
        try:
            self.pipeline.step(batch.rows)
        except Exception as error:
            self.observer.pass_failed(batch.stage, error)
            self._handle_failed_pass(batch, error)
        ended_at = time.perf_counter()
        self.observer.pass_finished(batch.stage, len(batch.entries), ended_at - started_at)
        self.scheduler.update(batch, started_at, ended_at)
        for entry in batch.entries:
            entry.ticket.add_pass(batch.stage, started_at, ended_at)

    def _handle_failed_pass(self, batch: Batch, error: Exception) -> None:
        num_rows = len(batch.entries)
        if num_rows == 1:
            _fail(batch.entries[0], error)
        elif is_out_of_memory(error):
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            log.warning(
                "out of memory with %d rows in stage %s: the limit is now %d rows",
                num_rows,
                batch.stage,
                self.scheduler.halve_limit(batch.stage, num_rows),
            )
        else:
            log.warning(
                "a pass of %d rows through stage %s failed; repeating it row by row",
                num_rows,
                batch.stage,
                exc_info=error,
            )
            self._execute_one_by_one(batch)

    def _execute_one_by_one(self, batch: Batch) -> None:
        for entry in batch.entries:
            # The failed pass may have advanced some of the rows before it raised.
            if entry.row.stage != batch.stage:
                continue
            try:
                self.pipeline.step([entry.row])
            except Exception as error:
                _fail(entry, error)

    def _finish_rows(self) -> None:
        """Remove ended and cancelled rows, and set `done` of tickets without any other row."""
        running: list[Entry] = []
        for entry in self._entries:
            ticket = entry.ticket
            if entry.row.stage is not None and not ticket.is_cancelled:
                running.append(entry)
            elif ticket.is_cancelled or all(row.stage is None for row in ticket.rows):
                ticket.done.set()
        self._entries = running


def _fail(entry: Entry, error: Exception) -> None:
    """End a row that failed alone, with the reason."""
    stage = str(entry.row.stage)
    entry.ticket.context.run(log.error, "a row failed in stage %s", stage, exc_info=error)
    entry.row.end(error=describe_failure(stage, error))
