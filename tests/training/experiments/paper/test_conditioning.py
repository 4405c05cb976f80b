"""Verdicts on the order of the conditioning modes."""

from __future__ import annotations

from training.evaluation.metrics import Estimate
from training.experiments.paper.conditioning import ModeResult, judge

SAME = Estimate(0.5, 0.4, 0.6)


def build_modes(**distances: float) -> dict[str, ModeResult]:
    estimates = {
        mode: Estimate(value, value - 0.1, value + 0.1) for mode, value in distances.items()
    }
    return {
        mode: ModeResult(SAME, (), SAME, estimate, SAME) for mode, estimate in estimates.items()
    }


def test_the_papers_order_is_confirmed() -> None:
    """Overlapping intervals are inconclusive."""
    lines = judge(build_modes(prior=1, text=2, z_t=3))
    assert all(line.startswith("- **As in the paper") for line in lines[:3])
    assert lines[3].startswith("- **Inconclusive")


def test_the_reverse_order_is_reported() -> None:
    """Every claim fails."""
    lines = judge(build_modes(prior=3, text=2, z_t=1))
    assert all(line.startswith("- **Not as in the paper") for line in lines[:3])
