"""A network's training plan: how many steps, how large a batch, and which optimizer settings."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Hyperparameters of one network's training. The defaults suit AdamW with a cosine decay."""

    steps: int  # optimizer steps in all
    batch: int  # images per step, over all processes
    lr: float  # peak learning rate
    warmup: int = 100  # steps of linear increase from 0 to `lr`
    cooldown: float = 1.0  # last share of the steps, in (0, 1]: the rate falls by a cosine to 0
    muon: bool = False  # Muon in place of AdamW for the inner weight matrices
    weight_decay: float = 0.01  # decoupled, of matrices only
    betas: tuple[float, float] = (0.9, 0.99)  # AdamW's decay per step of both moments
    eps: float = 1e-8  # AdamW's epsilon
    ema: float = 0.999  # decay per step of the averaged weights
    max_grad_norm: float = 1.0  # gradients with a larger global norm are scaled down to it
    bf16: bool = False  # autocast on a CPU with fast bf16 too; a GPU always uses it
    sharded: bool = False  # several processes: shard the weights (FSDP) instead of copying (DDP)


def learning_rate(plan: Plan, step: int) -> float:
    """Return the learning rate at a step: linear warm-up, an optional plateau, then a cosine to 0.

    A run with a plateau (`cooldown` below 1) can be lengthened until its cool-down begins."""
    warmup = min(1.0, (step + 1) / max(1, plan.warmup))
    progress = max(0.0, 1 - (1 - step / plan.steps) / plan.cooldown)
    return plan.lr * warmup * 0.5 * (1 + math.cos(math.pi * progress))
