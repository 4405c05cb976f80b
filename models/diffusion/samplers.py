"""Samplers as coefficients: every sampler here computes, at each of its steps,

    x_next = a·x_t + b·x_0 + c·x_0_prev + d·noise + e·x_0_before

x_0 is the network's estimate from x_t at the step's timestep, x_0_prev and x_0_before are its
estimates one and two steps earlier, and noise is new and normal. Predictor-correctors fit too,
because what a corrector would return to is itself linear in these. Coefficients are pure functions
of (schedule, number of steps, eta), in float64. So a step is one fused multiply-add, and rows of
one batch may be at different steps of different samplers.
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
    check_num_steps,
    spaced_timesteps,
)

# Below this log(alpha/sigma) an ODE solver sees only noise. The cosine schedule's last timesteps
# (alphas_cumprod 2.4e-9) would spoil its steps in lambda (Lu et al. 2022, arXiv 2211.01095).
LAMBDA_MIN = -5.1
INVERSION_SIGMA_MIN = 0.1


@dataclass(frozen=True)
class Coefficients:
    """The steps of a sampler: S timesteps and the coefficients a, b, c, d, e of each.

    `values` is `[S, 5]` in float64. If d may be learned, `max_noise` has its largest value at each
    step, and d itself is the smallest."""

    timesteps: tuple[int, ...]
    values: Tensor
    max_noise: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return len(self.timesteps)


# A single step that returns the network's x_0 unchanged.
ONE_STEP = Coefficients((0,), torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0]], dtype=torch.float64))


def _alpha_sigma(a: Tensor, t: int) -> tuple[float, float]:
    return math.sqrt(float(a[t])), math.sqrt(1 - float(a[t]))


def _coefficients(timesteps: list[int], steps: Sequence[tuple[float, ...]]) -> Coefficients:
    """Pad each step's coefficients to five with zeros."""
    padded = [(*step, *(5 - len(step)) * (0.0,)) for step in steps]
    return Coefficients(tuple(timesteps), torch.tensor(padded, dtype=torch.float64))


def _usable_timesteps(a: Tensor, num_inference_steps: int, lambda_min: float) -> list[int]:
    """Return evenly spaced timesteps whose log(alpha/sigma) is at least `lambda_min`."""
    lambdas = (a / (1 - a)).log() / 2
    usable = int((lambdas >= lambda_min).sum()) - 1
    check_num_steps(num_inference_steps, len(a))
    return spaced_timesteps(min(num_inference_steps, usable + 1), usable)


def ddpm_coefficients(a: Tensor, num_inference_steps: int) -> Coefficients:
    """Return ancestral sampling (Ho et al. 2020, eq. 6-7) for alphas_cumprod `a` `[T]`.

    Betas are derived anew between the timesteps that are left. The variance is the posterior's, and
    may be learned between that and beta."""
    timesteps = spaced_timesteps(num_inference_steps, len(a) - 1)
    steps = []
    max_noise = []
    for step, t in enumerate(timesteps):
        now = float(a[t])
        before = float(a[timesteps[step + 1]]) if step + 1 < len(timesteps) else 1.0
        beta = 1 - now / before
        of_x_0 = math.sqrt(before) * beta / (1 - now)
        of_x_t = math.sqrt(1 - beta) * (1 - before) / (1 - now)
        steps.append((of_x_t, of_x_0, 0.0, math.sqrt(beta * (1 - before) / (1 - now))))
        max_noise.append(math.sqrt(beta))
    return replace(_coefficients(timesteps, steps), max_noise=tuple(max_noise))


def ddim_coefficients(a: Tensor, num_inference_steps: int, eta: float = 0.0) -> Coefficients:
    """Return DDIM (Song et al. 2021, eq. 12 and 16) for alphas_cumprod `a` `[T]`.

    `eta` 0 is deterministic, Euler's method on the probability-flow ODE; 1 has DDPM's noise."""
    timesteps = spaced_timesteps(num_inference_steps, len(a) - 1)
    steps = []
    for step, t in enumerate(timesteps):
        now = float(a[t])
        before = float(a[timesteps[step + 1]]) if step + 1 < len(timesteps) else 1.0
        noise = eta * math.sqrt((1 - before) / (1 - now) * (1 - now / before))
        # x_next = sqrt(before) x_0 + sqrt(1 - before - noise²) eps,
        # with eps = (x_t - sqrt(now) x_0) / sqrt(1 - now).
        of_x_t = math.sqrt(max(1 - before - noise**2, 0.0) / (1 - now))
        steps.append((of_x_t, math.sqrt(before) - of_x_t * math.sqrt(now), 0.0, noise))
    return _coefficients(timesteps, steps)


def dpmpp_coefficients(
    a: Tensor, num_inference_steps: int, order: int = 2, lambda_min: float = LAMBDA_MIN
) -> Coefficients:
    """Return DPM-Solver++ (Lu et al. 2022) for alphas_cumprod `a` `[T]`.

    Order 2 is the multistep 2M (algorithm 2), order 1 the single-step 1S. Steps are spaced evenly
    in t while log(alpha/sigma) is at least `lambda_min`. The first step has no predecessor and the
    last returns x_0, so both are of order 1. Raises ValueError for another order."""
    if order not in (1, 2):
        raise ValueError(f"DPM-Solver++ of order {order} is not supported: use 1 or 2")
    lambdas = (a / (1 - a)).log() / 2
    timesteps = _usable_timesteps(a, num_inference_steps, lambda_min)
    steps: list[tuple[float, ...]] = []
    for step, t in enumerate(timesteps):
        if step + 1 == len(timesteps):
            steps.append((0.0, 1.0, 0.0, 0.0))
            continue
        sigma = _alpha_sigma(a, t)[1]
        alpha_next, sigma_next = _alpha_sigma(a, timesteps[step + 1])
        h = float(lambdas[timesteps[step + 1]] - lambdas[t])
        of_x_t = sigma_next / sigma
        of_d = -alpha_next * math.expm1(-h)
        if order == 1 or step == 0:
            steps.append((of_x_t, of_d, 0.0, 0.0))
        else:
            # D = (1 + 1/2r) x_0 - 1/2r x_0_prev, with r the ratio of the last step in lambda to
            # this one.
            ratio = float(lambdas[t] - lambdas[timesteps[step - 1]]) / h
            steps.append((of_x_t, of_d * (1 + 0.5 / ratio), -of_d * 0.5 / ratio, 0.0))
    return _coefficients(timesteps, steps)


def unipc_coefficients(
    a: Tensor, num_inference_steps: int, lambda_min: float = LAMBDA_MIN
) -> Coefficients:
    """Return UniPC of order 2 (Zhao et al. 2023, arXiv 2302.04867) for alphas_cumprod `a` `[T]`.

    It is the paper's B2 on x_0, predictor and corrector, with one evaluation a step. The corrector
    moves the point at which a step began, by the estimate made at its end. Both points differ by
    estimates only. So the corrected x_t is the predicted one plus multiples of the last three x_0,
    which is again one step's coefficients."""
    lambdas = (a / (1 - a)).log() / 2
    timesteps = _usable_timesteps(a, num_inference_steps, lambda_min)
    steps: list[tuple[float, ...]] = []
    # The coefficients of x_0 and x_0_prev in the step that led here.
    predicted = (0.0, 0.0)
    last_h = 0.0
    for step, t in enumerate(timesteps):
        if step + 1 == len(timesteps):
            steps.append((0.0, 1.0))
            break
        # The correction of x_t as multiples of x_0, x_0_prev and x_0_before.
        fix = (0.0, 0.0, 0.0)
        if step > 0:
            earlier = float(lambdas[timesteps[step - 2]]) if step > 1 else None
            older = (
                None
                if earlier is None
                else (earlier - float(lambdas[timesteps[step - 1]])) / last_h
            )
            corrected = _unipc_correction(_alpha_sigma(a, t)[0], last_h, older)
            fix = (corrected[0], corrected[1] - predicted[0], corrected[2] - predicted[1])
        sigma = _alpha_sigma(a, t)[1]
        alpha_next, sigma_next = _alpha_sigma(a, timesteps[step + 1])
        h = float(lambdas[timesteps[step + 1]] - lambdas[t])
        of_x_t = sigma_next / sigma
        of_d = -alpha_next * math.expm1(-h)
        slope = 0.5 * h / float(lambdas[t] - lambdas[timesteps[step - 1]]) if step > 0 else 0.0
        predicted = (of_d * (1 + slope), -of_d * slope)
        last_h = h
        of_x_0 = of_x_t * fix[0] + predicted[0]
        of_x_0_prev = of_x_t * fix[1] + predicted[1]
        steps.append((of_x_t, of_x_0, of_x_0_prev, 0.0, of_x_t * fix[2]))
    return _coefficients(timesteps, steps)


def _unipc_correction(alpha: float, h: float, older: float | None) -> tuple[float, float, float]:
    """Return the corrected step's coefficients of x_0, x_0_prev and x_0_before."""
    unit = math.expm1(-h)
    of_older, of_new = _unipc_weights(h, older)
    to_older = of_older / older if older is not None else 0.0
    return (
        -alpha * unit * of_new,
        -alpha * unit * (1 - to_older - of_new),
        -alpha * unit * to_older,
    )


def _unipc_weights(h: float, older: float | None) -> tuple[float, float]:
    """Return the corrector's weights of the differences to the older x_0 and to the new one.

    `older` is the place of the older x_0 in steps of h, below 0; None without one (eq. 10, with
    B(h) = e^h - 1 at -h)."""
    if older is None:
        return 0.0, 0.5
    phi_1 = math.expm1(-h)
    phi_2 = phi_1 / -h - 1
    phi_3 = phi_2 / -h - 0.5
    first = phi_2 / phi_1
    second = 2 * phi_3 / phi_1
    of_older = (second - first) / (older - 1)
    return of_older, first - of_older


def heun_coefficients(
    a: Tensor, num_inference_steps: int, lambda_min: float = LAMBDA_MIN
) -> Coefficients:
    """Return Heun's method (Karras et al. 2022, alg. 1) for alphas_cumprod `a` `[T]`.

    It solves the probability-flow ODE in x/alpha over sigma/alpha. A step of the solver is two
    evaluations, except for the last one, which returns x_0: 2n - 1 in all. The first evaluation is
    Euler's, which is DDIM's. The second corrects its result by half the difference of the slopes at
    both ends. The first slope is linear in the start and end of Euler's step, so the start need not
    be stored."""
    spaced = _usable_timesteps(a, num_inference_steps, lambda_min)
    timesteps = []
    steps = list[tuple[float, ...]]()
    for t, after in zip(spaced, spaced[1:], strict=False):
        alpha, sigma = _alpha_sigma(a, t)
        alpha_next, sigma_next = _alpha_sigma(a, after)
        # Of sigma/alpha after the step to sigma/alpha before it.
        ratio = sigma_next * alpha / (sigma * alpha_next)
        half = alpha_next * (1 - ratio) / (2 * ratio)
        euler = (sigma_next / sigma, alpha_next - sigma_next / sigma * alpha)
        steps += [euler, (1.0, half, -half)]
        timesteps += [t, after]
    return _coefficients([*timesteps, spaced[-1]], [*steps, (0.0, 1.0)])


def ddim_inversion_coefficients(
    a: Tensor, num_inference_steps: int, sigma_min: float = INVERSION_SIGMA_MIN
) -> Coefficients:
    """Return DDIM run backwards (Dhariwal & Nichol 2021, app. F), from the image to x_T.

    The first timestep is the first of the sampler's with a sigma of at least `sigma_min`, and x_t
    there is the image with noise of that level. Below it, eps = (x_t - alpha x_0) / sigma is mostly
    the network's error, amplified."""
    usable = [
        t
        for t in spaced_timesteps(num_inference_steps, len(a) - 1)[::-1]
        if _alpha_sigma(a, t)[1] >= sigma_min
    ]
    steps = []
    for t, after in zip(usable, usable[1:], strict=False):
        now = float(a[t])
        later = float(a[after])
        of_x_t = math.sqrt((1 - later) / (1 - now))
        steps.append((of_x_t, math.sqrt(later) - of_x_t * math.sqrt(now), 0.0, 0.0))
    return _coefficients(usable[:-1], steps)


def resample(coefficients: Coefficients, a: Tensor, times: int) -> Coefficients:
    """Repeat each step but the last `times` times, with noise added in between (RePaint).

    Repetition makes the new part of an edited image agree with the part around it (Lugmayr et al.
    2022, arXiv 2201.09865, alg. 1). The step to x_next and the noise that leads back to t are both
    linear, so together they are one step and need no forward pass. Raises ValueError for a
    multistep sampler, whose earlier estimates the added noise would invalidate."""
    if coefficients.values[:, [2, 4]].any():
        raise ValueError(
            "a multistep sampler cannot repeat steps for an edit: use 'ddpm' or 'ddim'"
        )
    timesteps = []
    steps = []
    for step, t in enumerate(coefficients.timesteps):
        single = coefficients.values[step].tolist()
        if step + 1 < len(coefficients):
            share = float(a[t] / a[coefficients.timesteps[step + 1]])
            noise = math.sqrt(share * single[3] ** 2 + 1 - share)
            repeated = (*(math.sqrt(share) * value for value in single[:3]), noise)
            timesteps += [t] * (times - 1)
            steps += [repeated] * (times - 1)
        timesteps.append(t)
        steps.append(tuple(single))
    return _coefficients(timesteps, steps)


SAMPLERS: dict[str, Callable[[Tensor, int, float], Coefficients]] = {
    "ddpm": lambda a, steps, eta: ddpm_coefficients(a, steps),
    "ddim": lambda a, steps, eta: ddim_coefficients(a, steps, eta),
    "dpm++": lambda a, steps, eta: dpmpp_coefficients(a, steps),
    "unipc": lambda a, steps, eta: unipc_coefficients(a, steps),
    "heun": lambda a, steps, eta: heun_coefficients(a, steps),
}


@cache
def sampler_coefficients(
    sampler: str, schedule: str, num_inference_steps: int, eta: float = 0.0
) -> Coefficients:
    """Return the coefficients of a sampler by its name.

    Names are "ddpm", "ddim" (the only one with an eta), "dpm++" (2M), "unipc" and "heun" (two
    evaluations a step). Raises ValueError for another name or number of steps."""
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}: use one of {', '.join(SAMPLERS)}")
    return SAMPLERS[sampler](alphas_cumprod(schedule, TRAIN_TIMESTEPS), num_inference_steps, eta)


def to_x_0(
    prediction: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, prediction_type: str
) -> Tensor:
    """Convert a network's prediction at x_t into its estimate of x_0.

    `alpha` and `sigma` are the square roots of alphas_cumprod and of its complement, in shapes that
    broadcast against x_t. Raises ValueError for an unknown `prediction_type`."""
    if prediction_type == "sample":
        return prediction
    if prediction_type == "epsilon":
        return (x_t - sigma * prediction) / alpha
    if prediction_type == "v_prediction":
        return alpha * x_t - sigma * prediction
    raise ValueError(
        f"unknown prediction_type {prediction_type!r}: use 'sample', 'epsilon' or 'v_prediction'"
    )
