"""Muon: what it steps by is orthogonal, the same for convolutions however they lie in memory, and it learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.trainer.muon import RMS, Muon, orthogonalised
from training.trainer.trainer import Plan, optimizers


@pytest.mark.parametrize("shape", [(8, 72), (72, 8), (16, 16)])
def test_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    """The singular vectors stay, and a spread of 1 to 1000 becomes 0.6 to 1.3."""
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    made = orthogonalised(u @ torch.logspace(0, -1.5, 8 if 8 in shape else 16).diag() @ v)
    found = torch.linalg.svdvals(made)
    assert float(found.min()) > 0.6
    assert float(found.max()) < 1.3
    off = u.T @ made @ v.T
    assert (off - off.diagonal().diag()).abs().max() < 1e-4


def test_a_convolution_is_stepped_alike_in_both_memory_formats() -> None:
    """As the matrix [out, in·h·w]; its rows' root mean square is the rate's share."""
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


def test_only_inner_matrices_are_its() -> None:
    """Edges, norms and biases stay with AdamW; every parameter has one optimizer."""
    from models.networks.unet import UNet, UNetConfig

    net = UNet(UNetConfig(3, 3, (8, 8), 1, (False, True), 16, norm_groups=4, head_channels=8))
    adam, muon = optimizers(net, Plan(steps=1, batch=1, lr=1e-3, muon=True))
    owners = [
        id(p)
        for optimizer in (adam, muon)
        for group in optimizer.param_groups
        for p in group["params"]
    ]
    assert sorted(owners) == sorted(id(p) for p in net.parameters())
    names = {id(p): name for name, p in net.named_parameters()}
    his = {names[id(p)] for p in muon.param_groups[0]["params"]}
    assert "middle.0.conv1.weight" in his
    assert "middle.1.to_q.weight" in his
    assert not any(
        "conv_in" in name or "conv_out" in name or "norm" in name or "bias" in name for name in his
    )
    assert len(optimizers(net, Plan(steps=1, batch=1, lr=1e-3))) == 1


def test_it_learns() -> None:
    """A linear map is found from its action."""
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
