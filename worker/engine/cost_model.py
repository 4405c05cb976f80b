"""Measured cost of forward passes: seconds per unit of work, and what a further row adds.

All values are exponential moving averages over recent passes, so that they follow the load. No
value is needed at start: an unmeasured stage counts as costly as the mean of the measured ones.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping

# Weight of the latest pass in every moving average.
SPEED_MOMENTUM = 0.05
# A short row lets longer rows join its pass while the pass takes at most MAX_PASS_SLOWDOWN times as
# long as a pass of one row, or MAX_PASS_STRETCH times as long as without the longer rows. Chosen by
# simulation: see "What was tried" in benchmarks/README.md.
MAX_PASS_SLOWDOWN = 2.2
MAX_PASS_STRETCH = 1.5
# Below this variance all recent passes had the same number of rows, so no slope can be fitted.
_MIN_VARIANCE = 1e-3


class PassTimes:
    """Seconds of one stage's passes as a straight line over their number of rows."""

    def __init__(self) -> None:
        self._rows = 0.0
        self._seconds = 0.0
        self._variance = 0.0
        self._covariance = 0.0

    def add(self, rows: int, seconds: float) -> None:
        """Add a pass to the fit."""
        if self._rows == 0:
            self._rows = rows
            self._seconds = seconds
            return
        rows_delta = rows - self._rows
        seconds_delta = seconds - self._seconds
        decay = 1 - SPEED_MOMENTUM
        self._rows += SPEED_MOMENTUM * rows_delta
        self._seconds += SPEED_MOMENTUM * seconds_delta
        self._variance = decay * (self._variance + SPEED_MOMENTUM * rows_delta * rows_delta)
        self._covariance = decay * (self._covariance + SPEED_MOMENTUM * rows_delta * seconds_delta)

    @property
    def marginal_cost(self) -> float:
        """What a further row adds, as a share of a pass of one row, at least 0.

        It is 0 while all passes had the same number of rows.
        """
        if self._variance < _MIN_VARIANCE:
            return 0.0
        slope = self._covariance / self._variance
        single_row = self._seconds - slope * (self._rows - 1)
        return max(0.0, slope / single_row) if single_row > 0 else 1.0

    def extra_rows(self, rows: int) -> int:
        """Return how many longer rows may join a pass of `rows` rows.

        The bounds are MAX_PASS_SLOWDOWN and MAX_PASS_STRETCH; unlimited while nothing is measured.
        """
        marginal_cost = self.marginal_cost
        if marginal_cost == 0:
            return sys.maxsize
        duration = 1 + marginal_cost * (rows - 1)
        max_duration = max(MAX_PASS_SLOWDOWN, MAX_PASS_STRETCH * duration)
        return max(0, int((max_duration - duration) / marginal_cost))


class CostModel:
    """Convert the cost units of rows (`Row.stage_costs`) into seconds on this device."""

    def __init__(self) -> None:
        # Total seconds of all passes.
        self.busy_s = 0.0
        # Seconds per unit of cost, by stage: of the device alone, and including waits for a turn.
        self._device_s: dict[str, float] = {}
        self._elapsed_s: dict[str, float] = {}
        self._pass_times: defaultdict[str, PassTimes] = defaultdict(PassTimes)

    def add_pass(self, stage: str, rows: int, seconds: float) -> None:
        """Record the duration of one forward pass."""
        self.busy_s += seconds
        self._pass_times[stage].add(rows, seconds)

    def add_row(self, stage: str, cost: float, device_s: float, elapsed_s: float) -> None:
        """Record one row's step of `cost` units.

        `device_s`: duration of its pass. `elapsed_s`: time since the row's previous step ended.
        """
        _update_mean(self._device_s, stage, device_s / cost)
        _update_mean(self._elapsed_s, stage, elapsed_s / cost)

    def device_seconds(self, costs: Mapping[str, float]) -> float:
        """Estimate the device time of costs by stage; unmeasured stages count as the mean one."""
        measured = self._device_s
        default = sum(measured.values()) / len(measured) if measured else 1.0
        return sum(cost * measured.get(stage, default) for stage, cost in costs.items())

    def elapsed_seconds(self, costs: Mapping[str, float]) -> float | None:
        """Estimate the elapsed time of costs by stage, waits included.

        None if one of the stages has not been measured yet.
        """
        if any(stage not in self._elapsed_s for stage in costs):
            return None
        return sum(cost * self._elapsed_s[stage] for stage, cost in costs.items())

    def extra_rows(self, stage: str, rows: int) -> int:
        """Return how many longer rows may join a pass of `rows` rows in `stage`."""
        return self._pass_times[stage].extra_rows(rows)


def _update_mean(means: dict[str, float], stage: str, value: float) -> None:
    previous = means.get(stage)
    means[stage] = value if previous is None else previous + SPEED_MOMENTUM * (value - previous)
