"""Muon: its steps are orthogonal, independent of memory format, and they reduce a loss."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.trainer.muon import RMS, Muon, orthogonalize


@pytest.mark.parametrize("shape", [(8, 72), (72, 8), (16, 16)])
def test_singular_values_come_close_to_one(shape: tuple[int, int]) -> None:
    """The singular vectors stay, and a spread of 1 to 30 becomes 0.6 to 1.3."""
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    spread = torch.logspace(0, -1.5, 8 if 8 in shape else 16).diag()
    result = orthogonalize(u @ spread @ v)
    values = torch.linalg.svdvals(result)
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3
    rotated = u.T @ result @ v.T
    assert (rotated - rotated.diagonal().diag()).abs().max() < 1e-4


def test_memory_formats_give_the_same_step() -> None:
    """A convolution is the matrix [out, in·h·w] in both formats; its step has the size of RMS."""
    torch.manual_seed(0)
    weight = torch.randn(8, 4, 3, 3)
    gradient = torch.randn(8, 4, 3, 3)
    steps = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        parameter = nn.Parameter(weight.clone(memory_format=memory_format))
        parameter.grad = gradient.clone(memory_format=memory_format)
        Muon([parameter], lr=0.1).step()
        steps.append((weight - parameter.detach()) / 0.1)
    assert torch.allclose(*steps, atol=1e-4)
    assert float(steps[0].square().mean().sqrt()) == pytest.approx(RMS, rel=0.2)


def test_muon_finds_a_linear_map() -> None:
    """A matrix is learned from its products."""
    torch.manual_seed(0)
    target = torch.randn(6, 10)
    weight = nn.Parameter(torch.zeros(6, 10))
    optimizer = Muon([weight], lr=0.05)
    for _ in range(200):
        x = torch.randn(64, 10)
        loss = (x @ (weight - target).T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.3
