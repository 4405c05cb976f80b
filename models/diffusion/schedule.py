"""Noise schedules and timestep spacing, in float64.

`alphas_cumprod[t]` is the share of the clean image's variance left at timestep t of 0 … T-1:
x_t = sqrt(alphas_cumprod[t]) x_0 + sqrt(1 - alphas_cumprod[t]) eps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TRAIN_TIMESTEPS = 1000
MAX_BETA = 0.999
SCHEDULES = ("cosine", "linear")


def betas(schedule: str, timesteps: int = TRAIN_TIMESTEPS) -> Tensor:
    """Return the variances `[T]` that the forward process adds at each timestep.

    "cosine": Nichol & Dhariwal 2021, eq. 17, capped at 0.999. "linear": Ho et al. 2020, scaled to
    any T as in guided-diffusion. Raises ValueError for another name."""
    if schedule == "cosine":

        def alpha_bar(fraction: float) -> float:
            return math.cos((fraction + 0.008) / 1.008 * math.pi / 2) ** 2

        values = [
            min(1 - alpha_bar((t + 1) / timesteps) / alpha_bar(t / timesteps), MAX_BETA)
            for t in range(timesteps)
        ]
        return torch.tensor(values, dtype=torch.float64)
    if schedule == "linear":
        scale = 1000 / timesteps
        return torch.linspace(scale * 1e-4, scale * 0.02, timesteps, dtype=torch.float64)
    raise ValueError(f"unknown noise schedule {schedule!r}: use 'cosine' or 'linear'")


def alphas_cumprod(schedule: str, timesteps: int = TRAIN_TIMESTEPS) -> Tensor:
    """Return the cumulative products `[T]` of 1 - beta."""
    return (1 - betas(schedule, timesteps)).cumprod(0)


def spaced_timesteps(num_inference_steps: int, last: int = TRAIN_TIMESTEPS - 1) -> list[int]:
    """Return descending timesteps from `last` to 0, both included.

    Step i of n is i·last/(n-1), rounded half to even (guided-diffusion's respacing). A single step
    is `last`. Raises ValueError as `check_num_steps`."""
    check_num_steps(num_inference_steps, last + 1)
    if num_inference_steps == 1:
        return [last]
    return [
        round(i * last / (num_inference_steps - 1)) for i in reversed(range(num_inference_steps))
    ]


def check_num_steps(num_inference_steps: int, timesteps: int) -> None:
    """Raise ValueError unless the number of steps is from 1 to the number of timesteps."""
    if not 1 <= num_inference_steps <= timesteps:
        raise ValueError(f"num_inference_steps is {num_inference_steps}: use 1 to {timesteps}")
