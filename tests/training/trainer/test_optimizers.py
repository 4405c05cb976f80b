"""Which parameters each optimizer updates."""

from __future__ import annotations

from models.networks.unet import UNet, UNetConfig
from training.trainer.optimizers import build_optimizers
from training.trainer.plan import Plan

EDGES_AND_VECTORS = ("conv_in", "conv_out", "norm", "bias")


def test_muon_takes_the_inner_matrices_only() -> None:
    """AdamW keeps the first and last layers, norms and biases; no parameter has two optimizers."""
    net = UNet(UNetConfig(3, 3, (8, 8), 1, (False, True), 16, norm_groups=4, head_channels=8))
    adam, muon = build_optimizers(net, Plan(steps=1, batch=1, lr=1e-3, muon=True))
    groups = [*adam.param_groups, *muon.param_groups]
    owners = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(owners) == sorted(id(parameter) for parameter in net.parameters())
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    inner = {names[id(parameter)] for parameter in muon.param_groups[0]["params"]}
    assert "middle.0.conv1.weight" in inner
    assert "middle.1.to_q.weight" in inner
    assert not any(part in name for name in inner for part in EDGES_AND_VECTORS)


def test_without_muon_there_is_one_optimizer() -> None:
    """AdamW takes all parameters."""
    net = UNet(UNetConfig(3, 3, (8, 8), 1, (False, True), 16, norm_groups=4, head_channels=8))
    assert len(build_optimizers(net, Plan(steps=1, batch=1, lr=1e-3))) == 1
