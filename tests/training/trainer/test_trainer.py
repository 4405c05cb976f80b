"""The trainer: an interrupted run continues bit for bit, and unfinished networks are refused."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.errors import TrainingError
from training.trainer.distributed import ProcessGroup
from training.trainer.plan import Plan
from training.trainer.step import Loss, Step
from training.trainer.trainer import Trainer, load_finished, train

PLAN = Plan(steps=30, batch=8, lr=0.01, warmup=5)


def build_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Dropout(0.2), nn.Linear(16, 1))


def sum_loss(network: nn.Module) -> Loss:
    def loss(step: Step) -> Tensor:
        x = torch.randn(step.batch, 4, generator=step.generator)
        return (network(x)[:, 0] - x.sum(1)).square().mean()

    return loss


def run(folder: Path, stop_after: int | None = None, plan: Plan = PLAN) -> nn.Module:
    network = build_model()
    return train("line", network, sum_loss(network), plan, folder, stop_after=stop_after)


def read_losses(folder: Path) -> list[str]:
    with (folder / "line-loss.csv").open() as file:
        return [row["loss"] for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    "plan", [PLAN, replace(PLAN, muon=True, cooldown=0.5)], ids=["adamw", "muon"]
)
def test_an_interrupted_run_continues_bit_for_bit(tmp_path: Path, plan: Plan) -> None:
    """Two interruptions change neither the loss curve nor the averaged weights."""
    whole = run(tmp_path / "whole", plan=plan)
    for stop_after in (7, 11, None):
        pieces = run(tmp_path / "pieces", stop_after, plan)
    assert read_losses(tmp_path / "pieces") == read_losses(tmp_path / "whole")
    assert len(read_losses(tmp_path / "whole")) == PLAN.steps
    for key, value in whole.state_dict().items():
        assert torch.equal(value, pieces.state_dict()[key])
    assert (tmp_path / "whole" / "line-loss.png").stat().st_size > 1000


def test_load_step_and_save_make_up_a_run(tmp_path: Path) -> None:
    """The trainer's methods can be called one by one, with the same losses as a run."""
    run(tmp_path / "whole")
    for steps in (7, 23):
        network = build_model().train()
        trainer = Trainer("line", network, sum_loss(network), PLAN, tmp_path / "pieces")
        trainer.load()
        for _ in range(steps):
            trainer.step()
        trainer.save()
    assert trainer.number == PLAN.steps
    assert read_losses(tmp_path / "pieces") == read_losses(tmp_path / "whole")


def test_samples_come_from_the_averaged_weights(tmp_path: Path) -> None:
    """A save writes samples in eval mode, and training continues with its own weights."""
    network = build_model()
    weights = []

    def save_samples(model: nn.Module, path: Path) -> None:
        assert not model.training
        assert path.name == "line-samples.png"
        weights.append(model.state_dict()["0.weight"].clone())

    trainer = Trainer("line", network, sum_loss(network), PLAN, tmp_path, save_samples=save_samples)
    trainer.load()
    trainer.step()
    before = network.state_dict()["0.weight"].clone()
    trainer.save()
    assert torch.equal(weights[0], trainer.averaged["0.weight"])
    assert torch.equal(network.state_dict()["0.weight"], before)
    assert network.training


def test_an_unfinished_network_is_refused(tmp_path: Path) -> None:
    """The message says how far the training is; a finished one loads its averaged weights."""
    with pytest.raises(TrainingError, match="has not begun"):
        load_finished("line", build_model(), PLAN, tmp_path)
    run(tmp_path, 7)
    with pytest.raises(TrainingError, match="stopped at step 7 of 30"):
        load_finished("line", build_model(), PLAN, tmp_path)
    trained = run(tmp_path)
    loaded = load_finished("line", build_model(), PLAN, tmp_path)
    for key, value in trained.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key])


def test_a_batch_that_cannot_be_split_is_refused(tmp_path: Path) -> None:
    """The message gives a multiple that works."""
    network = build_model()
    with pytest.raises(TrainingError, match="use a multiple of 3"):
        Trainer("line", network, sum_loss(network), PLAN, tmp_path, group=ProcessGroup(0, 3))
