"""Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon/): momentum whose matrices are orthogonalised before each step.

torch.optim.Muon takes matrices only and multiplies in bf16, which is slow on most CPUs. This one takes convolutions too, as the matrices
[out, in·h·w] that they are, in the parameters' own precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# Newton-Schulz iteration that brings all singular values near 1 within five steps (Jordan 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
# As large as AdamW's steps usually are, so that both share a learning rate (Liu et al. 2025, arXiv 2502.16982, §2.2).
RMS = 0.2


def orthogonalised(matrix: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrix to `[m, n]`, about: singular values between 0.7 and 1.2."""
    a, b, c = COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    # Every iterate is a polynomial in X·Xᵀ times X. Only the small square one is iterated: a third of the work for a convolution.
    gram = wide @ wide.T
    product = torch.eye(len(gram), device=gram.device, dtype=gram.dtype)
    for _ in range(STEPS):
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal().add_(a)
        product = polynomial @ product
        gram = polynomial @ gram @ polynomial
    wide = product @ wide
    made: Tensor = wide if matrix.shape[0] <= matrix.shape[1] else wide.T
    return made


class Muon(torch.optim.Optimizer):
    """For weights of two dimensions and more inside a network; the first and last layer, norms and biases want AdamW."""

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"]
                momentum.lerp_(parameter.grad, 1 - group["momentum"])
                nesterov = parameter.grad.lerp(momentum, group["momentum"])
                # channels_last weights lie as [out, h, w, in]: the same matrix with its columns in another order.
                matrix = nesterov.flatten(1) if nesterov.dim() < 4 else nesterov.permute(0, 2, 3, 1).flatten(1)
                update = orthogonalised(matrix) * (RMS * max(matrix.shape) ** 0.5)
                if nesterov.dim() == 4:
                    out, inner, height, width = nesterov.shape
                    update = update.view(out, height, width, inner).permute(0, 3, 1, 2)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.view_as(parameter), alpha=-group["lr"])
