"""Training goes on where it was killed, bit for bit, and really learns."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.trainer.trainer import Plan, Step, finished, learning_rate, train

PLAN = Plan(steps=30, batch=8, lr=0.01, warmup=5)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Dropout(0.2), nn.Linear(16, 1))


def lesson(network: nn.Module) -> object:
    def loss(step: Step) -> Tensor:
        x = torch.randn(step.batch, 4, generator=step.generator)
        return (network(x)[:, 0] - x.sum(1)).square().mean()

    return loss


def run(folder: Path, stop_after: int | None = None, plan: Plan = PLAN) -> nn.Module:
    network = model()
    return train("line", network, lesson(network), plan, folder, stop_after=stop_after)  # type: ignore[arg-type]


def curve(folder: Path) -> list[str]:
    with (folder / "line-loss.csv").open() as file:
        return [row["loss"] for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    "plan", [PLAN, replace(PLAN, muon=True, cooldown=0.5)], ids=["adamw", "muon"]
)
def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path: Path, plan: Plan) -> None:
    """Stopped twice: the same loss curve to the last digit, and the same averaged weights."""
    whole = run(tmp_path / "whole", plan=plan)
    for stop in (7, 11, None):
        pieces = run(tmp_path / "pieces", stop, plan)
    assert curve(tmp_path / "pieces") == curve(tmp_path / "whole")
    assert len(curve(tmp_path / "whole")) == PLAN.steps
    for key, value in whole.state_dict().items():
        assert torch.equal(value, pieces.state_dict()[key])
    assert (tmp_path / "whole" / "line-loss.png").stat().st_size > 1000


def test_an_unfinished_network_is_not_used(tmp_path: Path) -> None:
    """The message says how far it is."""
    with pytest.raises(RuntimeError, match="has not begun"):
        finished("line", model(), PLAN, tmp_path)
    run(tmp_path, 7)
    with pytest.raises(RuntimeError, match="stopped at step 7 of 30"):
        finished("line", model(), PLAN, tmp_path)
    trained = run(tmp_path)
    for key, value in trained.state_dict().items():
        assert torch.equal(value, finished("line", model(), PLAN, tmp_path).state_dict()[key])


def test_the_learning_rate_warms_up_and_ends_at_nothing() -> None:
    """Linear, then a cosine."""
    rates = [learning_rate(PLAN, step) for step in range(PLAN.steps + 1)]
    assert rates[0] == pytest.approx(PLAN.lr / 5)
    assert max(rates) == max(rates[3:7])
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_a_plateau_keeps_the_rate_until_the_cool_down() -> None:
    """So that a run on it can be lengthened; the last share of the steps falls to nothing."""
    plan = replace(PLAN, cooldown=0.4)
    rates = [learning_rate(plan, step) for step in range(plan.steps + 1)]
    assert set(rates[4:19]) == {PLAN.lr}
    assert rates[24] == pytest.approx(PLAN.lr / 2)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
