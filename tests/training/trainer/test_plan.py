"""The learning rate of a plan."""

from __future__ import annotations

from dataclasses import replace

import pytest

from training.trainer.plan import Plan, learning_rate

PLAN = Plan(steps=30, batch=8, lr=0.01, warmup=5)


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    """The rate rises linearly, then falls by a cosine."""
    rates = [learning_rate(PLAN, step) for step in range(PLAN.steps + 1)]
    assert rates[0] == pytest.approx(PLAN.lr / 5)
    assert max(rates) == max(rates[3:7])
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_a_plateau_keeps_the_rate_until_the_cooldown() -> None:
    """A run on its plateau can be lengthened; the last share of the steps falls to zero."""
    plan = replace(PLAN, cooldown=0.4)
    rates = [learning_rate(plan, step) for step in range(plan.steps + 1)]
    assert set(rates[4:19]) == {PLAN.lr}
    assert rates[24] == pytest.approx(PLAN.lr / 2)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
