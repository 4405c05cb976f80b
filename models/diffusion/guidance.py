"""Guidance and the bounds of an estimate of x_0: pure functions of tensors and numbers."""

from __future__ import annotations

from torch import Tensor


def guide(conditional: Tensor, unconditional: Tensor, scale: Tensor | float) -> Tensor:
    """Combine predictions of one shape by classifier-free guidance (Ho & Salimans 2022).

    The formula is linear in the prediction, so it serves x_0, epsilon and v alike, and logits. A
    scale of 1 returns the conditional prediction."""
    return unconditional + scale * (conditional - unconditional)


def is_in_interval(position: float, start: float, stop: float) -> bool:
    """Whether guidance applies at this share of a stage's steps, which is in [0, 1).

    Guidance may be limited to an interval of the noise levels (Kynkäänniemi et al. 2024, arXiv
    2404.07724)."""
    return start <= position < stop


def clamp(x: Tensor, bound: float) -> Tensor:
    """Clamp to ±bound. A NaN stays NaN, so that `DiffusionStage.step` detects it."""
    return x.clamp(-bound, bound)


def threshold(x_0: Tensor, quantile: float) -> Tensor:
    """Bring one image's x_0 of any shape within ±1 by dynamic thresholding.

    The absolute value that a share `quantile` of the pixels does not exceed becomes the bound if it
    is above 1, and the whole image is divided by it, so that strong guidance saturates less
    (Saharia et al. 2022, §2.3). A quantile of 0 clamps instead."""
    if quantile == 0:
        return clamp(x_0, 1.0)
    bound = x_0.abs().flatten().quantile(quantile).clamp(min=1.0)
    return x_0.clamp(-bound, bound) / bound
