"""The training loop that every network shares: AdamW or Muon, warm-up and cool-down, EMA, resume, and what it shows.

A step is a function of its number: its batch, timesteps and noise all come from a generator seeded by (seed, step).
So a run that was killed goes on from its last save with the loss curve it would have had, bit for bit.
"""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from training.errors import TrainingError
from training.trainer.distributed import ALONE, Team
from training.trainer.muon import Muon

SAVE_EVERY_S = 180.0
Rows = TypeVar("Rows", bound=Tensor | list[Any])


@dataclass(frozen=True)
class Plan:
    """How long and how fast one network learns."""

    steps: int
    batch: int
    lr: float
    warmup: int = 100  # steps
    cooldown: float = (
        1.0  # share of the steps, the last ones, in which the rate falls by a cosine to nothing
    )
    muon: bool = False  # for the inner weight matrices, in place of AdamW
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    ema: float = 0.999
    max_grad_norm: float = 1.0
    bf16: bool = False  # autocast on the CPU too, for one whose bf16 is fast; a GPU always does
    sharded: bool = False  # several processes have a part of the weights each (FSDP), else all of them all (DDP)


@dataclass(frozen=True)
class Step:
    """What a loss may draw on: the step's number, how many rows, where, and its own random numbers.

    Several processes share a step's rows. Each draws the numbers of the whole batch and takes its own, so that what is learned
    does not depend on how many there are."""

    number: int
    batch: int  # rows of all processes together
    device: torch.device
    generator: torch.Generator  # on the CPU
    rank: int = 0
    ranks: int = 1
    device_generator: torch.Generator | None = (
        None  # on the device, where drawing on the CPU would keep it waiting
    )

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers `[own rows, *shape]` on the device."""
        at = self.device_generator or self.generator
        return self.own(torch.randn(self.batch, *shape, generator=at, device=at.device)).to(
            self.device
        )

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in [0, 1), `[own rows, *shape]` on the device."""
        at = self.device_generator or self.generator
        return self.own(torch.rand(self.batch, *shape, generator=at, device=at.device)).to(
            self.device
        )

    def integers(self, end: int, *shape: int) -> Tensor:
        """Whole numbers from 0 and below `end`, `[own rows, *shape]` on the device."""
        at = self.device_generator or self.generator
        return self.own(
            torch.randint(end, (self.batch, *shape), generator=at, device=at.device)
        ).to(self.device)

    def own(self, drawn: Rows) -> Rows:
        """This process' rows of what was drawn for the whole batch."""
        rows = self.batch // self.ranks
        return drawn[self.rank * rows : (self.rank + 1) * rows]  # type: ignore[return-value]


Loss = Callable[[Step], Tensor]


def learning_rate(plan: Plan, step: int) -> float:
    """Linear warm-up, a plateau where the plan has one, then a cosine to nothing. A run that may be lengthened keeps its plateau."""
    warm = min(1.0, (step + 1) / max(1, plan.warmup))
    cooled = max(0.0, 1 - (1 - step / plan.steps) / plan.cooldown)
    return plan.lr * warm * 0.5 * (1 + math.cos(math.pi * cooled))


def optimizers(model: nn.Module, plan: Plan) -> list[torch.optim.Optimizer]:
    """AdamW for all parameters; with `plan.muon` Muon for the inner weight matrices, and AdamW for the first and last layers, whose
    sides are pixels or time, and for norms and biases."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    edges = ("conv_in", "conv_out", "time_in")
    inner = [
        p
        for name, p in named
        if plan.muon and p.dim() >= 2 and not any(edge in name for edge in edges)
    ]
    chosen = {id(p) for p in inner}
    rest = [p for _, p in named if id(p) not in chosen]
    groups = [
        {"params": [p for p in rest if p.dim() >= 2], "weight_decay": plan.weight_decay},
        {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=plan.lr, betas=plan.betas, eps=plan.eps, fused=True)
    return [adam, Muon(inner, lr=plan.lr, weight_decay=plan.weight_decay)] if inner else [adam]


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The random numbers of one step."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + step)


def train(
    name: str,
    model: nn.Module,
    loss: Loss,
    plan: Plan,
    folder: Path,
    *,
    seed: int = 0,
    device: str = "cpu",
    show: Callable[[nn.Module, Path], None] | None = None,
    stop_after: int | None = None,
    team: Team = ALONE,
) -> nn.Module:
    """Train `model` in place by `plan`, keeping state in `folder`/`name`.pt; a finished or interrupted run goes on from there.

    Returns the model holding its averaged (EMA) weights, in eval mode. `show(averaged model, path)` draws a sample
    grid whenever the state is saved. `stop_after` ends the call after that many steps of it (to be resumed later). Of a `team` each
    process calls this; the first keeps the files. TrainingError for a batch that they cannot share."""
    if plan.batch % team.ranks:
        raise TrainingError(
            f"a batch of {plan.batch} cannot be shared by {team.ranks} processes: take a multiple of {team.ranks}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    state_path = folder / f"{name}.pt"
    curve_path = folder / f"{name}-loss.csv"
    lesson = team.lesson(model, loss, sharded=plan.sharded)
    parameters = [p for p in model.parameters() if p.requires_grad]
    steppers = optimizers(model, plan)
    averaged = {key: value.detach().clone() for key, value in learned(model).items()}
    start = 0
    if state_path.exists():
        state = torch.load(state_path, map_location=device, weights_only=True)
        team.restore(model, steppers, averaged, state)
        start = state["step"]
    curve = _read_curve(curve_path, start)
    end = plan.steps if stop_after is None else min(plan.steps, start + stop_after)

    def save(step: int) -> None:
        state = team.state(learned(model), model, steppers, averaged) | {"step": step}
        if team.rank > 0:
            return
        torch.save(state, state_path.with_suffix(".part"))
        os.replace(state_path.with_suffix(".part"), state_path)
        _write_curve(curve_path, curve)
        if show is not None and not (
            plan.sharded and team.ranks > 1
        ):  # sharded weights draw only in all processes at once
            kept = {key: value.clone() for key, value in learned(model).items()}
            model.load_state_dict(averaged, strict=False)
            with torch.compiler.set_stance(
                "force_eager"
            ):  # its few images are not worth compiling for their number
                show(model.eval(), folder / f"{name}-samples.png")
            model.load_state_dict(kept, strict=False)
            model.train()

    model.train()
    saved = time.monotonic()
    recent = None
    kind = torch.device(device).type
    on_device = kind == "cuda"
    autocast = torch.autocast(kind, torch.bfloat16, enabled=on_device or plan.bf16)
    bar = tqdm(
        range(start, end),
        desc=name,
        initial=start,
        total=plan.steps,
        mininterval=5.0,
        disable=team.rank > 0,
    )
    for number in bar:
        for group in (group for stepper in steppers for group in stepper.param_groups):
            group["lr"] = learning_rate(plan, number)
        generator = step_generator(seed, number)
        torch.manual_seed(
            int(torch.randint(1 << 62, (), generator=generator)) + team.rank
        )  # for dropout
        with autocast:
            there = step_generator(seed, number, device) if on_device else None
            value = lesson(
                Step(
                    number,
                    plan.batch,
                    torch.device(device),
                    generator,
                    team.rank,
                    team.ranks,
                    there,
                )
            )
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, plan.max_grad_norm)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad(set_to_none=True)
        _average(averaged, model, min(plan.ema, (1 + number) / (10 + number)))
        curve.append(team.mean(value.detach()))
        if number % 20 == 0:
            now = float(curve[-1])
            recent = now if recent is None else 0.8 * recent + 0.2 * now
            bar.set_postfix(loss=f"{recent:.4f}")
        if team.agreed(time.monotonic() - saved > SAVE_EVERY_S, number):
            save(number + 1)
            saved = time.monotonic()
    if end > start:
        save(end)
        if team.rank == 0:
            plot_curve(curve_path)
    team.wait()  # what the first has written, the others may need next
    model.load_state_dict(averaged, strict=False)
    return model.eval()


def learned(model: nn.Module) -> dict[str, Any]:
    """What training changes of a network: its state without frozen parameters, which LoRA leaves most of them."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {key: value for key, value in model.state_dict().items() if key not in frozen}


def finished(
    name: str, model: nn.Module, plan: Plan, folder: Path, device: str = "cpu"
) -> nn.Module:
    """`model` with the averaged weights that a finished training of it left in `folder`, in eval mode. TrainingError where none is."""
    path = folder / f"{name}.pt"
    state = torch.load(path, map_location=device, weights_only=True) if path.exists() else None
    if state is None or state["step"] < plan.steps:
        reached = f"stopped at step {state['step']} of {plan.steps}" if state else "has not begun"
        raise TrainingError(f"the training of {name} in {folder} {reached}: train it first")
    if state["averaged"].keys() != learned(model).keys():
        raise TrainingError(
            f"{path} holds other parameters than are learned here: was it trained with another --lora?"
        )
    model.load_state_dict(state["averaged"], strict=False)
    return model.eval()


@torch.no_grad()
def _average(averaged: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    now = learned(model)
    floating = [key for key, value in now.items() if value.is_floating_point()]
    torch._foreach_lerp_(
        [averaged[key] for key in floating], [now[key] for key in floating], 1 - decay
    )
    for key in now.keys() - floating:
        averaged[key].copy_(now[key])


def _read_curve(path: Path, steps: int) -> list[Tensor]:
    if not path.exists():
        return []
    with path.open() as file:
        return [torch.tensor(float(row["loss"])) for row in csv.DictReader(file)][:steps]


def _write_curve(path: Path, curve: list[Tensor]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("step", "loss"))
        writer.writerows((step, repr(float(value))) for step, value in enumerate(curve))


def plot_curve(path: Path) -> None:
    """Draw a loss curve's CSV beside it as PNG, raw and smoothed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with path.open() as file:
        losses = torch.tensor([float(row["loss"]) for row in csv.DictReader(file)])
    window = max(1, len(losses) // 100)
    smooth = losses[: len(losses) // window * window].view(-1, window).mean(1)
    figure, axes = pyplot.subplots(figsize=(7, 4))
    axes.plot(losses, alpha=0.25, linewidth=0.5)
    axes.plot(torch.arange(len(smooth)) * window + window / 2, smooth)
    axes.set(title=path.stem, xlabel="step", ylabel="loss", yscale="log")
    figure.savefig(path.with_suffix(".png"), dpi=90)
    pyplot.close(figure)
