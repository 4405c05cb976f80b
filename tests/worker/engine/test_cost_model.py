"""What the cost model learns from passes."""

from __future__ import annotations

import sys

import pytest

from worker.engine.cost_model import CostModel, PassTimes


def measured(marginal_cost: float) -> PassTimes:
    """Pass times of a network to which each further row adds a share of a single-row pass."""
    times = PassTimes()
    for rows in [1, 4, 2, 3] * 50:
        times.add(rows, 0.1 * (1 + marginal_cost * (rows - 1)))
    return times


@pytest.mark.parametrize("marginal_cost", [0.05, 0.5, 2.0])
def test_the_marginal_cost_of_a_row_is_fitted(marginal_cost: float) -> None:
    assert measured(marginal_cost).marginal_cost == pytest.approx(marginal_cost)


def test_passes_that_get_shorter_with_rows_count_as_free() -> None:
    assert measured(-0.1).marginal_cost == 0


@pytest.mark.parametrize(("marginal_cost", "extra"), [(2.0, 0), (0.5, 2), (0.05, 24)])
def test_longer_rows_join_up_to_a_slowdown(marginal_cost: float, extra: int) -> None:
    """The pass takes at most MAX_PASS_SLOWDOWN times as long."""
    assert measured(marginal_cost).extra_rows(1) == extra


def test_rows_are_unlimited_until_different_sizes_are_measured() -> None:
    times = PassTimes()
    times.add(4, 0.1)
    times.add(4, 0.2)
    assert times.extra_rows(1) == sys.maxsize


def test_unmeasured_stages_count_as_the_mean_of_the_measured_ones() -> None:
    model = CostModel()
    assert model.device_seconds({"prior": 2.0}) == 2.0
    model.add_row("prior", 0.1, 0.01, 0.02)
    model.add_row("decoder", 1.0, 0.3, 0.5)
    assert model.device_seconds({"prior": 1.0, "decoder": 1.0}) == pytest.approx(0.4)
    assert model.device_seconds({"upsampler_256": 1.0}) == pytest.approx(0.2)


def test_the_elapsed_time_includes_waits_and_needs_every_stage() -> None:
    model = CostModel()
    model.add_row("prior", 0.1, 0.01, 0.02)
    assert model.elapsed_seconds({"prior": 1.0}) == pytest.approx(0.2)
    assert model.elapsed_seconds({"prior": 1.0, "decoder": 1.0}) is None
    assert model.elapsed_seconds({}) == 0


def test_speeds_follow_the_latest_passes() -> None:
    """A device that becomes twice as slow is known as such after some passes."""
    model = CostModel()
    for seconds in [0.1] * 10 + [0.2] * 200:
        model.add_row("decoder", 1.0, seconds, seconds)
        model.add_pass("decoder", 1, seconds)
    assert model.device_seconds({"decoder": 1.0}) == pytest.approx(0.2, rel=0.01)
    assert model.busy_s == pytest.approx(41)
