"""The engine: one thread that owns the device and moves whatever rows are there.

At every tick it takes the rows that need one network, up to the batch limit, makes one forward pass, and each row
has moved a step along its own table. A new request joins at the next tick; nobody waits for somebody else's batch
to end (in-flight batching).

Which network runs, the row decides that is shortest in all, in seconds of the device; of rows as short as each other, the one nearest to
its end. So short requests are not stuck behind long ones, and of those a few run and end while the rest waits. A row that others were
moved past for as many seconds as it takes in all comes first for once, so none starves. Where networks take turns on the device, one
runs for several ticks before it is asked again.

Rows that need the same network go along. On a GPU a pass of some rows takes little longer than one of a single row; on a CPU nearly as
many times as long. What a row adds is measured, and much longer ones go along with short ones only as far as those can bear it.
"""

from __future__ import annotations

import contextvars
import logging
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from models.row import STAGES, Row

log = logging.getLogger("worker.engine.core")
PACE_MOMENTUM = 0.05
ALIKE = 2.0  # rows whose work is up to so many times that of the first go along with it, whatever that costs
# Longer ones go along as far as a pass takes up to FULL times as long as one of a single row, or STRETCH times as long as without them.
FULL = 2.2
STRETCH = 1.5


class Stack(Protocol):
    """What the engine needs of the models."""

    def step(self, rows: Sequence[Row]) -> None: ...


class Ticket:
    """A request's rows in the engine. `done` is set once every row has ended."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = tuple(rows)
        self.done = threading.Event()
        self.abandoned = False
        self.context = (
            contextvars.copy_context()
        )  # what the log says of these rows is found by their job and request
        # By stage, when its first pass began and its last one ended, by time.perf_counter().
        self.times: dict[str, tuple[float, float]] = {}

    @property
    def fraction(self) -> float:
        """Share of all rows' work that is done."""
        return sum(row.fraction for row in self.rows) / len(self.rows)

    @property
    def slowest(self) -> Row | None:
        """The row with most left to do; None once all have ended."""
        moving = [row for row in self.rows if row.stage is not None]
        return min(moving, key=lambda row: row.fraction, default=None)


class _Entry:
    def __init__(self, row: Row, ticket: Ticket, busy: float, priority: int) -> None:
        self.row = row
        self.ticket = ticket
        self.haste = 2.0**-priority
        self.moved_at = time.perf_counter()
        self.moved_busy = busy


class _PassTimes:
    """Seconds of a stage's passes by their rows: the straight line through those of late."""

    def __init__(self) -> None:
        self.rows = 0.0
        self.seconds = 0.0
        self.variance = 0.0
        self.covariance = 0.0

    def add(self, rows: int, seconds: float) -> None:
        """One more pass."""
        if self.rows == 0:
            self.rows = rows
            self.seconds = seconds
            return
        more = rows - self.rows
        longer = seconds - self.seconds
        keep = 1 - PACE_MOMENTUM
        self.rows += PACE_MOMENTUM * more
        self.seconds += PACE_MOMENTUM * longer
        self.variance = keep * (self.variance + PACE_MOMENTUM * more * more)
        self.covariance = keep * (self.covariance + PACE_MOMENTUM * more * longer)

    @property
    def share(self) -> float:
        """What a further row adds, as a share of a pass of one row; 0 while all passes have had as many rows."""
        if self.variance < 1e-3:
            return 0.0
        slope = self.covariance / self.variance
        alone = self.seconds - slope * (self.rows - 1)
        return max(0.0, slope / alone) if alone > 0 else 1.0

    def room(self, rows: int) -> int:
        """How many longer rows a pass of so many may take along (FULL, STRETCH)."""
        if self.share == 0:
            return sys.maxsize
        seconds = 1 + self.share * (rows - 1)
        return max(0, int((max(FULL, STRETCH * seconds) - seconds) / self.share))


def batch_limits(max_batch: int) -> dict[str, int]:
    """Most rows of one pass, by stage: `max_batch` at 64², and in proportion to the pixels above."""
    shares = {"upsampler_256": 16, "upsampler_1024": 256}
    return {stage: max(1, max_batch // shares.get(stage, 1)) for stage in STAGES}


class Engine:
    """Owns the pipeline from `start` to `stop`. `submit` may be called by any thread."""

    def __init__(
        self,
        pipeline: Stack,
        limits: dict[str, int],
        observe: Callable[[str, int, float], None] = lambda stage, rows, seconds: None,
        on_failure: Callable[[], None] = lambda: os._exit(1),
        patience: int = 1,
        on_error: Callable[[str, Exception], None] = lambda stage, error: None,
    ) -> None:
        """`observe(stage, rows in the pass, seconds)` is told of every tick. `on_failure` is called should the engine itself
        break: a worker without one would take jobs for ever and draw none, so by default the process ends and its jobs go
        to another. `patience`: ticks that a network keeps running while rows need it, whoever else waits.
        `on_error(stage, error)` is told of every pass that failed."""
        self.patience = patience
        self._running = ""
        self._ticks_left = 0
        self.pipeline = pipeline
        self.limits = dict(limits)
        self.observe = observe
        self.on_failure = on_failure
        self.on_error = on_error
        self._entries: list[_Entry] = []
        # Seconds that a row took lately for each unit of cost, by stage: of the device, and with the waits for its turn.
        self._work_pace: dict[str, float] = {}
        self._pace: dict[str, float] = {}
        self._pass_times: defaultdict[str, _PassTimes] = defaultdict(_PassTimes)
        self._busy = 0.0  # seconds that the device has worked
        self._changed = threading.Condition()
        self._stopping = False
        self._ended = threading.Event()

    def start(self) -> None:
        """Begin ticking, in a thread of its own."""
        threading.Thread(target=self.run, name="engine", daemon=True).start()

    def stop(self) -> None:
        """End after the present tick; rows still there end with an error."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._ended.wait()

    def submit(self, rows: Sequence[Row], priority: int = 0) -> Ticket:
        """Let rows join at the next tick. Each `priority` above another counts as having half as much left to do."""
        ticket = Ticket(rows)
        with self._changed:
            if self._stopping:
                raise RuntimeError("the engine has stopped: it takes no more rows")
            self._entries += [_Entry(row, ticket, self._busy, priority) for row in rows]
            self._changed.notify()
        return ticket

    def abandon(self, ticket: Ticket) -> None:
        """Nobody waits for these rows any more: they leave before the next tick."""
        with self._changed:
            ticket.abandoned = True
            self._changed.notify()

    def eta(self, ticket: Ticket) -> float | None:
        """Seconds until the slowest of the rows has ended, as things go at present; None where a stage was not measured yet."""
        row = ticket.slowest
        left = row.left() if row is not None else {}
        if any(stage not in self._pace for stage in left):
            return None
        return sum(cost * self._pace[stage] for stage, cost in left.items())

    @property
    def rows_in_flight(self) -> int:
        """How many rows the engine holds."""
        return len(self._entries)

    def run(self) -> None:
        """Tick until `stop`. To be called once, by the thread that is to own the device."""
        try:
            self._work()
        except BaseException:
            log.critical("the engine itself failed", exc_info=True)
            self.on_failure()
        finally:
            self._ended.set()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._entries or self._stopping)
                if self._stopping:
                    for entry in self._entries:
                        entry.row.end(error="the worker is stopping")
                    self._settle()
                    return
                chosen = self._choose()
            if chosen:
                self._tick(chosen)
            with self._changed:
                self._settle()

    def _choose(self) -> list[_Entry]:
        """The rows of the next tick: the first by `_rank`, and those that go along with it."""
        entries = sorted(
            (entry for entry in self._entries if not entry.ticket.abandoned), key=self._rank
        )
        if not entries:
            return []
        if self._ticks_left == 0 or all(entry.row.stage != self._running for entry in entries):
            self._running = str(entries[0].row.stage)
            self._ticks_left = self.patience
        self._ticks_left -= 1
        stage = self._running
        limit = self.limits[self._running]
        waiting = [entry for entry in entries if entry.row.stage == stage]
        most = ALIKE * self._seconds(waiting[0].row.plan)
        alike: list[_Entry] = []
        longer: list[_Entry] = []
        for entry in waiting:
            (alike if self._seconds(entry.row.plan) <= most else longer).append(entry)
        del alike[limit:]
        return alike + longer[: min(limit - len(alike), self._pass_times[stage].room(len(alike)))]

    def _rank(self, entry: _Entry) -> tuple[bool, float, float]:
        """Smaller is sooner: not yet passed over for long, seconds of the device in all, and those left."""
        whole = self._seconds(entry.row.plan) * entry.haste
        return self._busy - entry.moved_busy <= whole, whole, self._seconds(entry.row.left())

    def _seconds(self, costs: dict[str, float]) -> float:
        """What costs by stage are in seconds of the device, as things went lately."""
        known = self._work_pace
        usual = sum(known.values()) / len(known) if known else 1.0
        return sum(cost * known.get(stage, usual) for stage, cost in costs.items())

    def _tick(self, chosen: list[_Entry]) -> None:
        rows = [entry.row for entry in chosen]
        stage = str(rows[0].stage)
        started = time.perf_counter()
        costs = [row.plan[stage] / row.steps for row in rows]
        try:
            self.pipeline.step(rows)
        except Exception as error:  # one request's trouble must not be another's
            self.on_error(stage, error)
            if len(rows) == 1:
                _fail(chosen[0], error)
            elif is_out_of_memory(error):
                self._halve(stage, len(rows))
            else:
                log.warning(
                    "a pass of %d rows through %s failed; trying them one by one",
                    len(rows),
                    stage,
                    exc_info=error,
                )
                self._one_by_one(stage, chosen)
        ended = time.perf_counter()
        self.observe(stage, len(rows), ended - started)
        self._busy += ended - started
        self._pass_times[stage].add(len(rows), ended - started)
        for entry, cost in zip(chosen, costs, strict=True):
            _follow(self._work_pace, stage, (ended - started) / cost)
            _follow(self._pace, stage, (ended - entry.moved_at) / cost)
            entry.moved_at = ended
            entry.moved_busy = self._busy
            entry.ticket.times[stage] = entry.ticket.times.get(stage, (started, ended))[0], ended

    def _one_by_one(self, stage: str, chosen: Sequence[_Entry]) -> None:
        for entry in chosen:
            if entry.row.stage != stage:
                continue
            try:
                self.pipeline.step([entry.row])
            except Exception as error:
                _fail(entry, error)

    def _halve(self, stage: str, rows: int) -> None:
        """So many rows did not fit into memory: go on with half as many a pass."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.limits[stage] = rows // 2
        log.warning(
            "out of memory with %d rows in %s: from now on at most %d",
            rows,
            stage,
            self.limits[stage],
        )

    def _settle(self) -> None:
        """Let go of rows that ended, and tell those who wait."""
        self._entries = [
            entry
            for entry in self._entries
            if (entry.row.stage is not None and not entry.ticket.abandoned) or self._end(entry)
        ]

    def _end(self, entry: _Entry) -> bool:
        if all(row.stage is None for row in entry.ticket.rows) or entry.ticket.abandoned:
            entry.ticket.done.set()
        return False


def _follow(means: dict[str, float], stage: str, value: float) -> None:
    """Move a running mean a little towards a value."""
    means[stage] = (
        value if stage not in means else means[stage] + PACE_MOMENTUM * (value - means[stage])
    )


def _fail(entry: _Entry, error: Exception) -> None:
    """End a row that failed alone, with the reason."""
    row = entry.row
    entry.ticket.context.run(log.error, "a row failed in %s", row.stage, exc_info=error)
    if is_out_of_memory(error):
        row.end(
            error=f"the {row.stage} does not fit into the memory of this worker's device, even alone"
        )
    else:
        row.end(error=f"the {row.stage} failed: {type(error).__name__}: {error}")


def is_out_of_memory(error: Exception) -> bool:
    """True for Python's and CUDA's own errors, and for those that come as a plain RuntimeError: of the CPU's allocator (its words
    differ by system) and of cuBLAS."""
    words = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        word in str(error) for word in words
    )
