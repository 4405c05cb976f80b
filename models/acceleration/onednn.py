"""Convolutions for a CPU, their weights laid out once as oneDNN wants them.

torch lays them out anew at every call, which costs a small image up to a quarter of its time. And where an image is doubled in size
before a 3x3 convolution, every output pixel sees only 2x2 different ones: four 2x2 convolutions of the small image, one for each place
in the square that a pixel becomes, say the same with 4/9 of the products.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.unet import ResBlock, UNet


class PackedConv(nn.Module):
    """What a convolution of stride 1 computes. It has no parameters: there is nothing in it to train or save."""

    def __init__(self, weight: Tensor, bias: Tensor | None, padding: int) -> None:
        super().__init__()
        self.weight = weight.detach()
        self.padding = [padding, padding]
        self.bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor, added: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """x `[B, C, H, W]` in fp32 -> `[B, C', H', W']`, channels last; `added`, of that shape, is added in the same pass, and `bias`
        `[C']` stands for the convolution's own."""
        x = x.contiguous(memory_format=torch.channels_last)
        if not self.weight.is_mkldnn:
            # Only now: without the size of an image oneDNN may choose a layout that costs twenty times the convolution. One chosen for
            # some batch serves others as well (measured).
            self.weight = torch.ops.aten.mkldnn_reorder_conv2d_weight(
                self.weight.contiguous().to_mkldnn(), self.padding, [1, 1], [1, 1], 1, list(x.shape)
            )
        ones = [1, 1]
        how: tuple[Any, ...] = ("none", [], "") if added is None else ("add", 1.0, None, [], None)
        operands = (
            x,
            *(() if added is None else (added,)),
            self.weight,
            self.bias if bias is None else bias,
        )
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            *operands, self.padding, ones, ones, 1, *how
        )
        return out


class PackedUpConv(nn.Module):
    """What a 3x3 convolution makes of an image doubled in size by nearest neighbours, from the small one."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        # Row 2i of the doubled image sees the rows i-1, i, i of the small one, and row 2i + 1 the rows i, i, i+1; so do columns.
        sums = torch.tensor(
            [[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], dtype=conv.weight.dtype
        )  # (place, tap of 2, tap of 3)
        weight = torch.einsum("pak,qbl,oikl->pqoiab", sums, sums, conv.weight).flatten(0, 2)
        self.conv = PackedConv(
            weight, None if conv.bias is None else conv.bias.repeat(4), padding=1
        )

    def forward(self, x: Tensor) -> Tensor:
        """x `[B, C, H, W]` in fp32 -> `[B, C', 2H, 2W]`, channels last."""
        height, width = x.shape[-2:]
        y = self.conv(x).unflatten(1, (2, 2, -1))  # (B, row, column, C', H + 1, W + 1)
        out = torch.empty(
            (len(x), y.shape[3], 2 * height, 2 * width),
            dtype=x.dtype,
            memory_format=torch.channels_last,
        )
        for p in range(2):
            for q in range(2):
                out[:, :, p::2, q::2] = y[:, p, q, :, p : p + height, q : q + width]
        return out


class PackedResBlock(ResBlock):
    """A residual block of packed convolutions, with two passes over the image less: the timestep's share goes in with the bias, and
    the sum with the skipped path is the second convolution's."""

    conv1: PackedConv | PackedUpConv  # type: ignore[assignment]
    conv2: PackedConv  # type: ignore[assignment]
    skip: PackedConv | nn.Identity  # type: ignore[assignment]

    def __init__(self, block: ResBlock) -> None:
        nn.Module.__init__(self)
        self.resize = block.resize
        self.scale_shift = block.scale_shift
        self.norm1 = block.norm1
        self.norm2 = block.norm2
        self.time_proj = block.time_proj
        self.conv1 = PackedUpConv(block.conv1) if block.resize == "up" else _packed(block.conv1)
        self.conv2 = _packed(block.conv2)
        self.skip = _packed(block.skip) if isinstance(block.skip, nn.Conv2d) else block.skip

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """As the plain block's."""
        h = F.silu(self.norm1(x))
        time = self.time_proj(emb)
        if self.resize == "down":
            h = self._resized(h)
        if self.scale_shift:
            scale, shift = time[..., None, None].chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(self.conv1(h)), 1 + scale)
        elif len(x) == 1 and isinstance(self.conv1, PackedConv) and self.conv1.bias is not None:
            h = self.norm2(self.conv1(h, bias=self.conv1.bias + time[0]))
        else:
            h = self.norm2(self.conv1(h) + time[..., None, None])
        skipped = self.skip(self._resized(x)).contiguous(memory_format=torch.channels_last)
        out: Tensor = self.conv2(F.silu(h), added=skipped)
        return out


def prepack_convolutions(networks: Iterable[nn.Module]) -> None:
    """Exchange the fp32 convolutions of U-Nets on the CPU, in place. Their weights are gone from the networks then, which can be
    run, and neither trained nor saved. On other processors than x86, where it was not measured, and without oneDNN nothing happens."""
    if not (torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")):
        return
    for unet in [
        module for network in networks for module in network.modules() if isinstance(module, UNet)
    ]:
        weight = unet.conv_in.weight
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            continue
        unet.conv_in = _packed(unet.conv_in)  # type: ignore[assignment]
        unet.conv_out = _packed(unet.conv_out)  # type: ignore[assignment]
        for module in list(unet.modules()):
            for name, child in module.named_children():
                if isinstance(child, ResBlock):
                    setattr(module, name, PackedResBlock(child))


def _packed(conv: nn.Conv2d) -> PackedConv:
    return PackedConv(conv.weight, conv.bias, int(conv.padding[0]))
