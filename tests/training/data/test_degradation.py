"""Degraded small images: of the right size, reproducible, and similar to the original."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from training.data.degradation import degrade, degrade_crops, gaussian_kernel
from training.trainer.step import Step


@pytest.mark.parametrize("size", [256, 1024])
def test_small_versions_show_their_crops(size: int) -> None:
    """They have a quarter of the side, and are nearer to their own crop than to another."""
    ramp = torch.linspace(-1, 1, 64).expand(3, 64, 64)
    x_0 = torch.stack([ramp, ramp.flip(2), ramp.mT, ramp.mT.flip(1)])
    step = Step(0, 4, torch.device("cpu"), torch.Generator().manual_seed(0))
    low = degrade_crops(x_0, size, step)
    assert low.shape == (4, 3, 16, 16)
    distance = (F.avg_pool2d(x_0, 4)[:, None] - low[None]).square().mean((2, 3, 4))
    assert distance.argmin(1).tolist() == [0, 1, 2, 3]


def test_a_seed_gives_one_degradation() -> None:
    """The same seed gives the same image, another seed another one."""
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(degrade(image, 1), degrade(image, 1))
    assert not torch.equal(degrade(image, 1), degrade(image, 2))


def test_kernels_sum_to_one() -> None:
    """A blur keeps the brightness."""
    assert float(gaussian_kernel(0.6).sum()) == pytest.approx(1)
    assert gaussian_kernel(1.0, 7).shape == (7, 7)
