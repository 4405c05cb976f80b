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


def betas(schedule: str, timesteps: int = TRAIN_TIMESTEPS) -> Tensor:
    """`[T]` variances added at each step. "cosine": Nichol & Dhariwal 2021, eq. 17, capped at 0.999. "linear": Ho et al. 2020,
    scaled to any T as in guided-diffusion."""
    if schedule == "cosine":

        def kept(fraction: float) -> float:
            return math.cos((fraction + 0.008) / 1.008 * math.pi / 2) ** 2

        values = [
            min(1 - kept((t + 1) / timesteps) / kept(t / timesteps), MAX_BETA)
            for t in range(timesteps)
        ]
        return torch.tensor(values, dtype=torch.float64)
    if schedule == "linear":
        scale = 1000 / timesteps
        return torch.linspace(scale * 1e-4, scale * 0.02, timesteps, dtype=torch.float64)
    raise ValueError(f"unknown noise schedule {schedule!r}: use 'cosine' or 'linear'")


def alphas_cumprod(schedule: str, timesteps: int = TRAIN_TIMESTEPS) -> Tensor:
    """`[T]` products of 1 - beta."""
    return (1 - betas(schedule, timesteps)).cumprod(0)


def spaced_timesteps(num_inference_steps: int, last: int = TRAIN_TIMESTEPS - 1) -> list[int]:
    """Descending timesteps from `last` to 0, both included: i·last/(n-1), rounded half to even (guided-diffusion's
    respacing). One step is `last` alone."""
    checked_steps(num_inference_steps, last + 1)
    if num_inference_steps == 1:
        return [last]
    return [
        round(i * last / (num_inference_steps - 1)) for i in reversed(range(num_inference_steps))
    ]


def checked_steps(num_inference_steps: int, timesteps: int) -> None:
    """ValueError unless there is at least one step and none twice."""
    if not 1 <= num_inference_steps <= timesteps:
        raise ValueError(f"num_inference_steps is {num_inference_steps}: use 1 to {timesteps}")
