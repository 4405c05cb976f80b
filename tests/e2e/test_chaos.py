"""A short campaign of random faults: every rule holds, and the same seed has the same faults."""

from __future__ import annotations

from benchmarks.chaos.campaign import run_campaign
from benchmarks.chaos.faults import FAULTS, plan_faults

NUM_FAULTS = 25


def test_a_seed_has_the_same_faults() -> None:
    """So a campaign that found a violation can be repeated."""
    assert plan_faults(7, 50) == plan_faults(7, 50)
    assert plan_faults(7, 50) != plan_faults(8, 50)
    assert {name for name, _ in plan_faults(1, 1000)} == set(FAULTS)


def test_no_rule_is_violated() -> None:
    """Accepted jobs end once, workers go on, and no log holds a secret."""
    report = run_campaign(seed=1, num_faults=NUM_FAULTS, rate=10.0, pause_s=0.25)
    assert report["violations"] == []
    assert report["num_faults"] == NUM_FAULTS
    assert report["accepted"] > 100
    assert report["lost_answers"] > 0
