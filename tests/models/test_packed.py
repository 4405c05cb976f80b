"""Convolutions laid out for a CPU compute what they did before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import UnCLIP
from models.packed import PackedConv, PackedUpConv, pack

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN packs nothing")


@torch.inference_mode()
def test_a_packed_convolution_serves_any_batch_and_size() -> None:
    """Though it was laid out for the first it saw."""
    for kernel in (1, 3):
        conv = nn.Conv2d(24, 40, kernel, padding=kernel // 2)
        packed = PackedConv(conv.weight, conv.bias, kernel // 2)
        for shape in ((1, 24, 8, 8), (5, 24, 8, 8), (2, 24, 17, 5)):
            x = torch.randn(shape)
            assert torch.allclose(packed(x), conv(x), atol=1e-5)
            assert packed(x).is_contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
@pytest.mark.parametrize("bias", [True, False])
def test_doubling_and_convolving_are_one(bias: bool) -> None:
    """To the edges, where there is padding, and with sides that differ."""
    conv, x = nn.Conv2d(6, 10, 3, padding=1, bias=bias), torch.randn(2, 6, 9, 4)
    assert torch.allclose(PackedUpConv(conv)(x), conv(F.interpolate(x, scale_factor=2.0)), atol=1e-5)


def test_a_packed_stack_draws_the_same_pictures(tiny_checkpoint: Path) -> None:
    """And its convolutions have nothing left to save."""
    plain, packed = UnCLIP.load(tiny_checkpoint), UnCLIP.load(tiny_checkpoint)
    packed.pack()
    assert not any("conv" in key for key in packed.decoder.state_dict())
    pictures = [stack.generate(["a red cube", "two"], size=256) for stack in (plain, packed)]
    assert torch.allclose(*pictures, atol=1e-4)


def test_what_is_not_for_it_is_left_alone() -> None:
    """Half precision, and convolutions of another kind."""
    others = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1).half(), nn.Conv2d(4, 4, 3, stride=2), nn.Conv2d(4, 4, 3, padding="same")])
    pack([others])
    assert all(isinstance(other, nn.Conv2d) for other in others)
