"""The loss of a learned variance, by its minimum."""

from __future__ import annotations

import torch
from torch import Tensor

from training.losses.diffusion import Denoising

DENOISING = Denoising("cosine", "epsilon")


def minimize(t: int, error: float) -> tuple[float, float]:
    """Return the variance output in [-1, 1] with the lowest loss, and that loss.

    `error` is that of the predicted eps."""
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.rand(2, 3, 8, 8, generator=generator) * 1.8 - 0.9
    eps = torch.randn(x_0.shape, generator=generator)
    prediction = eps + error * torch.ones_like(eps)
    outputs = torch.linspace(-1, 1, 41)

    def loss(output: Tensor) -> float:
        variance = output.expand_as(x_0)
        value = DENOISING.variance_loss(variance, prediction, x_0, eps, torch.full((2,), t))
        return float(value)

    values = [loss(output) for output in outputs]
    best = min(range(41), key=lambda k: values[k])
    return float(outputs[best]), values[best]


def test_an_exact_mean_has_the_posterior_variance() -> None:
    """The divergence is zero there, and the lowest output is the posterior's variance."""
    for t in (5, 100, 500):
        output, value = minimize(t, 0.0)
        assert output < -0.8
        assert abs(value) < 1e-5


def test_an_inexact_mean_has_a_larger_variance() -> None:
    """The variance covers the error of the mean."""
    assert minimize(5, 1.0)[0] > -0.5
    assert minimize(100, 0.0)[1] < minimize(100, 1.0)[1]


def test_the_last_step_is_a_likelihood() -> None:
    """It is of 256 grey levels, so it is finite and at most log 256 nats."""
    value = minimize(0, 0.0)[1]
    assert 0 < value < 6


def test_only_the_variance_gets_a_gradient() -> None:
    """The prediction of the mean is detached."""
    x_0 = torch.zeros(1, 3, 4, 4)
    eps = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    variance = torch.zeros_like(x_0, requires_grad=True)
    prediction = eps.clone().requires_grad_(True)
    DENOISING.variance_loss(variance, prediction, x_0, eps, torch.tensor([300])).backward()
    assert variance.grad is not None
    assert variance.grad.abs().sum() > 0
    assert prediction.grad is None
