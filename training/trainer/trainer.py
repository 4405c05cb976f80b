"""The training loop of every network: optimizer steps, averaged weights (EMA), saving, resuming.

A step is a function of its number: its batch, timesteps and noise come from a generator seeded by
(seed, step). A run that was interrupted therefore continues from its last save with the same loss
curve, bit for bit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from training.errors import TrainingError
from training.trainer.distributed import SINGLE_PROCESS, ProcessGroup
from training.trainer.loss_curve import plot_curve, read_curve, write_curve
from training.trainer.optimizers import build_optimizers
from training.trainer.plan import Plan, learning_rate
from training.trainer.step import Loss, Step, step_generator

SAVE_EVERY_S = 180.0
SaveSamples = Callable[[nn.Module, Path], None]


class Trainer:
    """One network's training: `load` resumes it, `step` advances it, `save` writes its state.

    The state is `folder`/`name`.pt, the loss curve `folder`/`name`-loss.csv. With several
    processes each has a trainer, and the first one writes the files."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        loss: Loss,
        plan: Plan,
        folder: Path,
        *,
        seed: int = 0,
        device: str = "cpu",
        save_samples: SaveSamples | None = None,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        """Prepare the optimizers and averaged weights.

        `save_samples(averaged model, path)` writes a sample grid with each save. Raises
        TrainingError if the batch cannot be split evenly among the processes."""
        if plan.batch % group.world_size:
            raise TrainingError(
                f"batch {plan.batch} cannot be split among {group.world_size} processes: "
                f"use a multiple of {group.world_size}"
            )
        self.name = name
        self.model = model
        self.plan = plan
        self.seed = seed
        self.device = torch.device(device)
        self.save_samples = save_samples
        self.group = group
        self.state_path = folder / f"{name}.pt"
        self.curve_path = folder / f"{name}-loss.csv"
        self.samples_path = folder / f"{name}-samples.png"
        self.loss = group.wrap_loss(model, loss, sharded=plan.sharded)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizers = build_optimizers(model, plan)
        self.averaged = {key: value.detach().clone() for key, value in trainable(model).items()}
        self.number = 0  # steps done
        self.curve: list[Tensor] = []

    def load(self) -> None:
        """Continue from the saved state if there is one."""
        self.state_path.parent.mkdir(parents=True, exist_ok=True)
        if self.state_path.exists():
            state = torch.load(self.state_path, map_location=self.device, weights_only=True)
            self.group.load_state(self.model, self.optimizers, self.averaged, state)
            self.number = state["step"]
        self.curve = read_curve(self.curve_path, self.number)

    def run(self, stop_after: int | None = None) -> nn.Module:
        """Train to the plan's end, or for `stop_after` steps, with a save every SAVE_EVERY_S.

        Returns the model with its averaged weights, in eval mode."""
        start = self.number
        end = self.plan.steps if stop_after is None else min(self.plan.steps, start + stop_after)
        self.model.train()
        last_save = time.monotonic()
        bar = tqdm(
            range(start, end),
            desc=self.name,
            initial=start,
            total=self.plan.steps,
            mininterval=5.0,
            disable=self.group.rank > 0,
        )
        smoothed = None
        for number in bar:
            self.step()
            if number % 20 == 0:
                value = float(self.curve[-1])
                smoothed = value if smoothed is None else 0.8 * smoothed + 0.2 * value
                bar.set_postfix(loss=f"{smoothed:.4f}")
            if self.group.rank0_decides(time.monotonic() - last_save > SAVE_EVERY_S, number):
                self.save()
                last_save = time.monotonic()
        if end > start:
            self.save()
            if self.group.rank == 0:
                plot_curve(self.curve_path)
        # The other processes may read the first one's files next.
        self.group.wait()
        self.model.load_state_dict(self.averaged, strict=False)
        return self.model.eval()

    def step(self) -> None:
        """Do one optimizer step and update the averaged weights."""
        for optimizer in self.optimizers:
            for parameters in optimizer.param_groups:
                parameters["lr"] = learning_rate(self.plan, self.number)
        value = self._loss_of_step()
        value.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.plan.max_grad_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        # A short average at first, so that the initial weights do not linger.
        decay = min(self.plan.ema, (1 + self.number) / (10 + self.number))
        _update_average(self.averaged, self.model, decay)
        self.curve.append(self.group.mean(value.detach()))
        self.number += 1

    def save(self) -> None:
        """Write the state, the loss curve and the sample grid. Every process must call this."""
        state = self.group.state(
            trainable(self.model), self.model, self.optimizers, self.averaged
        ) | {"step": self.number}
        if self.group.rank > 0:
            return
        part = self.state_path.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, self.state_path)
        write_curve(self.curve_path, self.curve)
        # Sharded weights run only in all processes at once.
        is_sharded = self.plan.sharded and self.group.world_size > 1
        if self.save_samples is not None and not is_sharded:
            self._save_samples(self.save_samples)

    def _loss_of_step(self) -> Tensor:
        is_cuda = self.device.type == "cuda"
        generator = step_generator(self.seed, self.number)
        # Dropout uses the global generator, with other numbers in each process.
        dropout_seed = int(torch.randint(1 << 62, (), generator=generator)) + self.group.rank
        torch.manual_seed(dropout_seed)
        step = Step(
            self.number,
            self.plan.batch,
            self.device,
            generator,
            self.group.rank,
            self.group.world_size,
            step_generator(self.seed, self.number, self.device) if is_cuda else None,
        )
        enabled = is_cuda or self.plan.bf16
        with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            return self.loss(step)

    def _save_samples(self, save_samples: SaveSamples) -> None:
        """Write a grid by the averaged weights, then put the trained ones back."""
        weights = {key: value.clone() for key, value in trainable(self.model).items()}
        self.model.load_state_dict(self.averaged, strict=False)
        # Compiling for a handful of images would cost more than it saves.
        with torch.compiler.set_stance("force_eager"):
            save_samples(self.model.eval(), self.samples_path)
        self.model.load_state_dict(weights, strict=False)
        self.model.train()


def train(
    name: str,
    model: nn.Module,
    loss: Loss,
    plan: Plan,
    folder: Path,
    *,
    stop_after: int | None = None,
    **options: Any,
) -> nn.Module:
    """Train `model` in place, from its saved state if `folder` has one.

    `options` are those of `Trainer`. Returns the model with its averaged weights, in eval mode."""
    trainer = Trainer(name, model, loss, plan, folder, **options)
    trainer.load()
    return trainer.run(stop_after)


def trainable(model: nn.Module) -> dict[str, Any]:
    """Return what training changes: the state without frozen parameters (with LoRA, most)."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {key: value for key, value in model.state_dict().items() if key not in frozen}


def load_finished(
    name: str, model: nn.Module, plan: Plan, folder: Path, device: str = "cpu"
) -> nn.Module:
    """Load the averaged weights of a finished training into `model`, in eval mode.

    Raises TrainingError if the training is missing, unfinished or of other parameters."""
    path = folder / f"{name}.pt"
    state = torch.load(path, map_location=device, weights_only=True) if path.exists() else None
    if state is None or state["step"] < plan.steps:
        reached = f"stopped at step {state['step']} of {plan.steps}" if state else "has not begun"
        raise TrainingError(f"the training of {name} in {folder} {reached}: train it first")
    if state["averaged"].keys() != trainable(model).keys():
        raise TrainingError(
            f"{path} has other parameters than this run trains: use the --lora it was trained with"
        )
    model.load_state_dict(state["averaged"], strict=False)
    return model.eval()


@torch.no_grad()
def _update_average(averaged: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    state = trainable(model)
    floating = [key for key, value in state.items() if value.is_floating_point()]
    torch._foreach_lerp_(
        [averaged[key] for key in floating], [state[key] for key in floating], 1 - decay
    )
    for key in state.keys() - floating:
        averaged[key].copy_(state[key])
