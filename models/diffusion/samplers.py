"""A sampler is a table: every sampler here is, for each of its steps,

    x_next = a·x_t + b·x_0 + c·x_0_prev + d·noise + e·x_0_before

where x_0 is what the network makes of x_t at the row's timestep, x_0_prev and x_0_before what it made one and two rows before, and
noise is fresh and normal. Predictor-correctors fit too: what a corrector would go back to is itself linear in these. Tables are pure
functions of (schedule, number of steps, eta), in float64, so that stepping is one gather and one fused multiply-add, and rows of one
batch may be at different steps of different samplers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from models.diffusion.schedule import (
    TRAIN_TIMESTEPS,
    alphas_cumprod,
    checked_steps,
    spaced_timesteps,
)

# Below this log(alpha/sigma) an ODE solver finds nothing but noise, and the cosine schedule's last steps
# (alphas_cumprod 2.4e-9) would spoil its steps in lambda (Lu et al. 2022, arXiv 2211.01095).
LAMBDA_MIN = -5.1
INVERSION_SIGMA_MIN = 0.1


@dataclass(frozen=True)
class Table:
    """A sampler's steps: timesteps `[S]` (int) and coefficients a, b, c, d, e as `[S, 5]` (float64). Where d may be learned,
    `widest` has the largest it may be at each step, d itself being the smallest."""

    timesteps: tuple[int, ...]
    coefficients: Tensor
    widest: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return len(self.timesteps)


def _alpha_sigma(a: Tensor, t: int) -> tuple[float, float]:
    return math.sqrt(float(a[t])), math.sqrt(1 - float(a[t]))


def _table(timesteps: list[int], rows: Sequence[tuple[float, ...]]) -> Table:
    return Table(
        tuple(timesteps),
        torch.tensor([(*row, *(5 - len(row)) * (0.0,)) for row in rows], dtype=torch.float64),
    )


def _usable_timesteps(a: Tensor, num_inference_steps: int, lambda_min: float) -> list[int]:
    """Timesteps spaced evenly where log(alpha/sigma) is at least `lambda_min`, as ODE solvers want them."""
    lambdas = (a / (1 - a)).log() / 2
    usable = int((lambdas >= lambda_min).sum()) - 1
    checked_steps(num_inference_steps, len(a))
    return spaced_timesteps(min(num_inference_steps, usable + 1), usable)


def ddpm_table(a: Tensor, num_inference_steps: int) -> Table:
    """Ancestral sampling (Ho et al. 2020, eq. 6-7) on betas re-derived between the kept steps; the variance is the
    posterior's, and may be learned between that and beta. `a`: alphas_cumprod `[T]`."""
    timesteps = spaced_timesteps(num_inference_steps, len(a) - 1)
    rows = []
    widest = []
    for step, t in enumerate(timesteps):
        now = float(a[t])
        before = float(a[timesteps[step + 1]]) if step + 1 < len(timesteps) else 1.0
        beta = 1 - now / before
        of_x_0 = math.sqrt(before) * beta / (1 - now)
        of_x_t = math.sqrt(1 - beta) * (1 - before) / (1 - now)
        rows.append((of_x_t, of_x_0, 0.0, math.sqrt(beta * (1 - before) / (1 - now))))
        widest.append(math.sqrt(beta))
    return replace(_table(timesteps, rows), widest=tuple(widest))


def ddim_table(a: Tensor, num_inference_steps: int, eta: float = 0.0) -> Table:
    """DDIM (Song et al. 2021, eq. 12 and 16): `eta` 0 is deterministic, the probability-flow ODE by Euler; 1 has DDPM's noise."""
    timesteps = spaced_timesteps(num_inference_steps, len(a) - 1)
    rows = []
    for step, t in enumerate(timesteps):
        now = float(a[t])
        before = float(a[timesteps[step + 1]]) if step + 1 < len(timesteps) else 1.0
        noise = eta * math.sqrt((1 - before) / (1 - now) * (1 - now / before))
        # x_next = sqrt(before) x_0 + sqrt(1 - before - noise²) eps, with eps = (x_t - sqrt(now) x_0) / sqrt(1 - now)
        of_x_t = math.sqrt(max(1 - before - noise**2, 0.0) / (1 - now))
        rows.append((of_x_t, math.sqrt(before) - of_x_t * math.sqrt(now), 0.0, noise))
    return _table(timesteps, rows)


def dpmpp_table(
    a: Tensor, num_inference_steps: int, order: int = 2, lambda_min: float = LAMBDA_MIN
) -> Table:
    """DPM-Solver++ (Lu et al. 2022): order 2 is the multistep 2M (algorithm 2), order 1 the single-step 1S.

    Steps are spaced evenly in t where log(alpha/sigma) is at least `lambda_min`. The first step has no predecessor and the
    last lands on x_0, so both are of order 1."""
    if order not in (1, 2):
        raise ValueError(f"DPM-Solver++ of order {order} is not here: use 1 or 2")
    lambdas = (a / (1 - a)).log() / 2
    timesteps = _usable_timesteps(a, num_inference_steps, lambda_min)
    rows: list[tuple[float, ...]] = []
    for step, t in enumerate(timesteps):
        if step + 1 == len(timesteps):
            rows.append((0.0, 1.0, 0.0, 0.0))
            continue
        sigma = _alpha_sigma(a, t)[1]
        alpha_next, sigma_next = _alpha_sigma(a, timesteps[step + 1])
        h = float(lambdas[timesteps[step + 1]] - lambdas[t])
        of_x_t = sigma_next / sigma
        of_d = -alpha_next * math.expm1(-h)
        if order == 1 or step == 0:
            rows.append((of_x_t, of_d, 0.0, 0.0))
        else:
            # D = (1 + 1/2r) x_0 - 1/2r x_0_prev, with r the ratio of the last step in lambda to this one
            ratio = float(lambdas[t] - lambdas[timesteps[step - 1]]) / h
            rows.append((of_x_t, of_d * (1 + 0.5 / ratio), -of_d * 0.5 / ratio, 0.0))
    return _table(timesteps, rows)


def unipc_table(a: Tensor, num_inference_steps: int, lambda_min: float = LAMBDA_MIN) -> Table:
    """UniPC of order 2 (Zhao et al. 2023, arXiv 2302.04867; its B2, on x_0), predictor and corrector, one evaluation a step.

    The corrector moves the point that a step began at, by the estimate made at where the step led. Both points differ by estimates
    only, so from the predicted x_t the corrected one is x_t plus some of the last three x_0: a row of the table."""
    lambdas = (a / (1 - a)).log() / 2
    timesteps = _usable_timesteps(a, num_inference_steps, lambda_min)
    rows: list[tuple[float, ...]] = []
    # what the step to here took of x_0 and x_0_prev, as they were then
    predicted = (0.0, 0.0)
    last_h = 0.0
    for step, t in enumerate(timesteps):
        if step + 1 == len(timesteps):
            rows.append((0.0, 1.0))
            break
        # The correction of x_t: so much of x_0, x_0_prev and x_0_before.
        fix = (0.0, 0.0, 0.0)
        if step > 0:
            alpha = _alpha_sigma(a, t)[0]
            unit = math.expm1(-last_h)
            older = (
                float(lambdas[timesteps[step - 2]] - lambdas[timesteps[step - 1]]) / last_h
                if step > 1
                else None
            )
            of_older, of_new = _unipc_weights(last_h, older)
            to_older = of_older / older if older is not None else 0.0
            corrected = (
                -alpha * unit * of_new,
                -alpha * unit * (1 - to_older - of_new),
                -alpha * unit * to_older,
            )
            fix = (corrected[0], corrected[1] - predicted[0], corrected[2] - predicted[1])
        sigma, alpha_next, sigma_next = _alpha_sigma(a, t)[1], *_alpha_sigma(a, timesteps[step + 1])
        h = float(lambdas[timesteps[step + 1]] - lambdas[t])
        of_x_t = sigma_next / sigma
        of_d = -alpha_next * math.expm1(-h)
        slope = 0.5 * h / float(lambdas[t] - lambdas[timesteps[step - 1]]) if step > 0 else 0.0
        predicted = (of_d * (1 + slope), -of_d * slope)
        last_h = h
        rows.append(
            (
                of_x_t,
                of_x_t * fix[0] + predicted[0],
                of_x_t * fix[1] + predicted[1],
                0.0,
                of_x_t * fix[2],
            )
        )
    return _table(timesteps, rows)


def _unipc_weights(h: float, older: float | None) -> tuple[float, float]:
    """The corrector's weights of the difference to the older x_0, which lies at `older` (in steps of h, below 0; None without one),
    and of the difference to the new one (eq. 10, with B(h) = e^h - 1 taken at -h)."""
    if older is None:
        return 0.0, 0.5
    phi_1 = math.expm1(-h)
    phi_2 = phi_1 / -h - 1
    phi_3 = phi_2 / -h - 0.5
    first = phi_2 / phi_1
    second = 2 * phi_3 / phi_1
    of_older = (second - first) / (older - 1)
    return of_older, first - of_older


def heun_table(a: Tensor, num_inference_steps: int, lambda_min: float = LAMBDA_MIN) -> Table:
    """The probability-flow ODE by Heun's method (Karras et al. 2022, alg. 1) in x/alpha over sigma/alpha. A step is two rows, each an
    evaluation, but the last one, which lands on x_0: 2n - 1 in all.

    Euler's row is DDIM's; the second row corrects where it led by half the difference of the slopes at both ends, and as the first slope
    is linear in what Euler's row began and ended with, the beginning need not be kept."""
    spaced = _usable_timesteps(a, num_inference_steps, lambda_min)
    timesteps = []
    rows = list[tuple[float, ...]]()
    for t, after in zip(spaced, spaced[1:], strict=False):
        (alpha, sigma) = _alpha_sigma(a, t)
        (alpha_next, sigma_next) = _alpha_sigma(a, after)
        ratio = (
            sigma_next * alpha / (sigma * alpha_next)
        )  # of sigma/alpha, after the step to before
        half = alpha_next * (1 - ratio) / (2 * ratio)
        rows += [(sigma_next / sigma, alpha_next - sigma_next / sigma * alpha), (1.0, half, -half)]
        timesteps += [t, after]
    return _table([*timesteps, spaced[-1]], [*rows, (0.0, 1.0)])


def ddim_inversion_table(
    a: Tensor, num_inference_steps: int, sigma_min: float = INVERSION_SIGMA_MIN
) -> Table:
    """DDIM run backwards (Dhariwal & Nichol 2021, app. F): from x_t at the table's first timestep to x_T.

    It begins at the first of the sampler's timesteps where sigma is at least `sigma_min`: below, eps = (x_t - alpha x_0) / sigma
    is little but the network's error blown up.
    There x_t is the image with so much noise added."""
    usable = [
        t
        for t in spaced_timesteps(num_inference_steps, len(a) - 1)[::-1]
        if _alpha_sigma(a, t)[1] >= sigma_min
    ]
    rows = []
    for t, after in zip(usable, usable[1:], strict=False):
        now = float(a[t])
        later = float(a[after])
        of_x_t = math.sqrt((1 - later) / (1 - now))
        rows.append((of_x_t, math.sqrt(later) - of_x_t * math.sqrt(now), 0.0, 0.0))
    return _table(usable[:-1], rows)


def resampled(table: Table, a: Tensor, times: int) -> Table:
    """RePaint's resampling (Lugmayr et al. 2022, arXiv 2201.09865, alg. 1) of a table without memory: each step but the last is made
    `times` times, with noise put back in between, so that what is drawn comes to agree with what is kept around it.

    A step to x_next and the noise that leads back to t are linear, so both together are one row: no pass of its own."""
    if table.coefficients[:, [2, 4]].any():
        raise ValueError("a sampler that looks back cannot be resampled: use 'ddpm' or 'ddim'")
    timesteps = []
    rows = []
    for step, (t, row) in enumerate(zip(table.timesteps, table.coefficients.tolist(), strict=True)):
        if step + 1 < len(table):
            kept = float(a[t] / a[table.timesteps[step + 1]])
            back = [math.sqrt(kept) * v for v in row[:3]] + [
                math.sqrt(kept * row[3] ** 2 + 1 - kept)
            ]
            timesteps += [t] * (times - 1)
            rows += [tuple(back)] * (times - 1)
        timesteps.append(t)
        rows.append(tuple(row))
    return _table(timesteps, rows)


SAMPLERS: dict[str, Callable[[Tensor, int, float], Table]] = {
    "ddpm": lambda a, steps, eta: ddpm_table(a, steps),
    "ddim": lambda a, steps, eta: ddim_table(a, steps, eta),
    "dpm++": lambda a, steps, eta: dpmpp_table(a, steps),
    "unipc": lambda a, steps, eta: unipc_table(a, steps),
    "heun": lambda a, steps, eta: heun_table(a, steps),
}


@cache
def sampler_table(sampler: str, schedule: str, num_inference_steps: int, eta: float = 0.0) -> Table:
    """The table of a sampler by name: "ddpm", "ddim" (the only one with an eta), "dpm++" (2M), "unipc" or "heun" (two rows a step)."""
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}: use one of {', '.join(SAMPLERS)}")
    return SAMPLERS[sampler](alphas_cumprod(schedule, TRAIN_TIMESTEPS), num_inference_steps, eta)


def to_x_0(
    prediction: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, prediction_type: str
) -> Tensor:
    """What a network says of x_t, as an estimate of x_0. alpha, sigma: sqrt of alphas_cumprod and of its complement,
    shaped to broadcast against x_t."""
    if prediction_type == "sample":
        return prediction
    if prediction_type == "epsilon":
        return (x_t - sigma * prediction) / alpha
    if prediction_type == "v_prediction":
        return alpha * x_t - sigma * prediction
    raise ValueError(
        f"unknown prediction_type {prediction_type!r}: use 'sample', 'epsilon' or 'v_prediction'"
    )
