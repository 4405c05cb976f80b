"""Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon/): momentum with orthogonal steps.

torch.optim.Muon takes matrices only and multiplies in bf16, which is slow on most CPUs. This one
also takes convolutions, as matrices [out, in·h·w], in the parameters' own precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor

# Newton-Schulz iteration that brings all singular values near 1 within five steps (Jordan 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
# The usual size of AdamW's steps, so that both share a learning rate (Liu et al. 2025,
# arXiv 2502.16982, §2.2).
RMS = 0.2


def orthogonalize(matrices: Tensor) -> Tensor:
    """Return approximately the nearest semi-orthogonal matrices to `[…, m, n]`.

    Their singular values are between 0.7 and 1.2."""
    a, b, c = COEFFICIENTS
    is_wide = matrices.shape[-2] <= matrices.shape[-1]
    wide = matrices if is_wide else matrices.mT
    wide = wide / (wide.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    # Every iterate is a polynomial in X·Xᵀ times X. Iterating only the small square matrix takes a
    # third of the work for a convolution.
    gram = wide @ wide.mT
    product = torch.eye(gram.shape[-1], device=gram.device, dtype=gram.dtype).expand_as(gram)
    for _ in range(ITERATIONS):
        polynomial = b * gram + c * (gram @ gram)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        product = polynomial @ product
        gram = polynomial @ gram @ polynomial
    wide = product @ wide
    result: Tensor = wide if is_wide else wide.mT
    return result


class Muon(torch.optim.Optimizer):
    """Muon for inner weights of two and more dimensions.

    Use AdamW for the first and last layer, norms and biases."""

    def __init__(
        self, params: Iterable[Any], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            # Parameters of one shape share their kernels: a GPU would otherwise spend its time on
            # launching many small products.
            same_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    same_shape.setdefault(parameter.shape, []).append(parameter)
            for parameters in same_shape.values():
                self._step(parameters, group["lr"], group["momentum"], group["weight_decay"])

    def _step(self, parameters: list[Tensor], lr: float, decay: float, weight_decay: float) -> None:
        """Update parameters that have one shape."""
        for parameter in parameters:
            if "momentum" not in self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        grads = [cast(Tensor, parameter.grad) for parameter in parameters]
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(momenta, grads, 1 - decay)
        nesterov = torch.stack(torch._foreach_lerp(grads, momenta, decay))
        # channels_last weights are stored as [out, h, w, in]: the same matrix with its columns in
        # another order.
        is_convolution = nesterov.dim() == 5
        matrices = (
            nesterov.permute(0, 1, 3, 4, 2).flatten(2) if is_convolution else nesterov.flatten(2)
        )
        updates = orthogonalize(matrices) * (RMS * max(matrices.shape[1:]) ** 0.5)
        if is_convolution:
            kernel = (*nesterov.shape[3:], nesterov.shape[2])
            updates = updates.unflatten(2, kernel).permute(0, 1, 4, 2, 3)
        steps = [
            update.view_as(parameter) for update, parameter in zip(updates, parameters, strict=True)
        ]
        torch._foreach_mul_(parameters, 1 - lr * weight_decay)
        torch._foreach_add_(parameters, steps, alpha=-lr)
