"""Prepacked convolutions compute the same as torch's."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import UnCLIP
from models.acceleration.onednn import PrepackedConv, PrepackedResBlock, PrepackedUpConv
from models.networks.unet import ResBlock, UNetConfig

USED = torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")
pytestmark = pytest.mark.skipif(
    not USED, reason="nothing is packed without oneDNN, nor on other processors than x86"
)


@torch.inference_mode()
def test_a_prepacked_convolution_serves_any_batch_and_size() -> None:
    """Its layout was chosen for the first input."""
    for kernel in (1, 3):
        conv = nn.Conv2d(24, 40, kernel, padding=kernel // 2)
        packed = PrepackedConv(conv.weight, conv.bias, kernel // 2)
        for shape in ((1, 24, 8, 8), (5, 24, 8, 8), (2, 24, 17, 5)):
            x = torch.randn(shape)
            assert torch.allclose(packed(x), conv(x), atol=1e-5)
            assert packed(x).is_contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
@pytest.mark.parametrize("bias", [True, False])
def test_the_up_convolution_equals_doubling_and_convolving(bias: bool) -> None:
    """Edges and unequal sides are included."""
    conv = nn.Conv2d(6, 10, 3, padding=1, bias=bias)
    x = torch.randn(2, 6, 9, 4)
    assert torch.allclose(
        PrepackedUpConv(conv)(x), conv(F.interpolate(x, scale_factor=2.0)), atol=1e-5
    )


def test_a_prepacked_pipeline_generates_the_same_images(tiny_checkpoint: Path) -> None:
    """Its convolutions have no parameters to save."""
    plain = UnCLIP.load(tiny_checkpoint)
    packed = UnCLIP.load(tiny_checkpoint)
    packed.prepack()
    assert not any("conv" in key for key in packed.decoder.state_dict())
    images = [pipeline.generate(["a red cube", "two"], size=256) for pipeline in (plain, packed)]
    assert torch.allclose(*images, atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("resize", [None, "up", "down"])
@pytest.mark.parametrize("scale_shift", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_prepacked_block_equals_the_block(
    resize: str | None, scale_shift: bool, batch: int
) -> None:
    """Covers both kinds of timestep conditioning, and each resize."""
    config = UNetConfig(
        3, 3, (8, 16), 1, (False, False), time_embed_dim=12, norm_groups=4, scale_shift=scale_shift
    )
    block = ResBlock(8, 8 if resize else 16, config, resize).eval()
    nn.init.normal_(block.conv2.weight, std=0.1)
    x = torch.randn(batch, 8, 6, 10)
    emb = torch.randn(batch, 12)
    wanted = block(x, emb)
    assert torch.allclose(PrepackedResBlock(block)(x, emb), wanted, atol=1e-5)


def test_half_precision_is_not_prepacked(tiny_checkpoint: Path) -> None:
    """Only fp32 weights are replaced."""
    pipeline = UnCLIP.load(tiny_checkpoint, dtype=torch.bfloat16)
    pipeline.prepack()
    assert any("conv" in key for key in pipeline.decoder.state_dict())
