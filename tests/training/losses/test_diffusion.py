"""The loss of a learned variance, by what it must lead to."""

from __future__ import annotations

import torch
from torch import Tensor

from training.losses.diffusion import Denoising

DENOISING = Denoising("cosine", "epsilon")


def best(t: int, error: float) -> tuple[float, float]:
    """The variance output in [-1, 1] that the loss is least at, and that loss, where eps is predicted with such an error."""
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.rand(2, 3, 8, 8, generator=generator) * 1.8 - 0.9
    eps = torch.randn(x_0.shape, generator=generator)
    outputs = torch.linspace(-1, 1, 41)

    def loss(output: Tensor) -> float:
        said = output.expand_as(x_0)
        return float(
            DENOISING.variance_loss(
                said, eps + error * torch.ones_like(eps), x_0, eps, torch.full((2,), t)
            )
        )

    values = [loss(output) for output in outputs]
    least = min(range(41), key=lambda k: values[k])
    return float(outputs[least]), values[least]


def test_the_variance_is_the_posteriors_where_the_mean_is_right_and_larger_where_it_is_not() -> (
    None
):
    """The divergence of a distribution from itself is nothing."""
    for t in (5, 100, 500):
        output, value = best(t, 0.0)
        assert output < -0.8
        assert abs(value) < 1e-5
    assert best(5, 1.0)[0] > -0.5
    assert best(100, 0.0)[1] < best(100, 1.0)[1]


def test_at_the_last_step_it_is_the_likelihood_of_the_image() -> None:
    """Of 256 grey levels, so it is finite and in nats."""
    value = best(0, 0.0)[1]
    assert 0 < value < 6


def test_it_teaches_the_variance_alone() -> None:
    """The mean is held fast."""
    x_0 = torch.zeros(1, 3, 4, 4)
    eps = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    variance = torch.zeros_like(x_0, requires_grad=True)
    prediction = eps.clone().requires_grad_(True)
    DENOISING.variance_loss(variance, prediction, x_0, eps, torch.tensor([300])).backward()
    assert variance.grad is not None
    assert variance.grad.abs().sum() > 0
    assert prediction.grad is None
