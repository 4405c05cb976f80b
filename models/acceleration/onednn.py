"""Convolutions for a CPU, their weights prepacked once in oneDNN's layout.

torch reorders them at every call, which costs a small image up to a quarter of its time. And when
an image is doubled in size before a 3x3 convolution, every output pixel depends on only 2x2
different ones. Four 2x2 convolutions of the small image, one for each place in the square that a
pixel becomes, compute the same with 4/9 of the products.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.unet import ResBlock, UNet


class PrepackedConv(nn.Module):
    """A convolution of stride 1 with prepacked weights.

    It has no parameters, so that nothing in it is trained or saved."""

    def __init__(self, weight: Tensor, bias: Tensor | None, padding: int) -> None:
        super().__init__()
        self.weight = weight.detach()
        self.padding = [padding, padding]
        self.bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor, added: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Convolve x `[B, C, H, W]` in fp32 to `[B, C', H', W']`, channels last.

        `added`, of the output's shape, is added in the same pass. `bias` `[C']` replaces the
        convolution's own."""
        x = x.contiguous(memory_format=torch.channels_last)
        if not self.weight.is_mkldnn:
            # Reordered at the first call, because without an image's size oneDNN may choose a
            # layout that costs twenty times the convolution. A layout that is chosen for one batch
            # size serves others equally well (measured).
            self.weight = torch.ops.aten.mkldnn_reorder_conv2d_weight(
                self.weight.contiguous().to_mkldnn(), self.padding, [1, 1], [1, 1], 1, list(x.shape)
            )
        ones = [1, 1]
        fusion: tuple[Any, ...] = ("none", [], "")
        inputs: tuple[Tensor, ...] = (x,)
        if added is not None:
            fusion = ("add", 1.0, None, [], None)
            inputs = (x, added)
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            *inputs,
            self.weight,
            self.bias if bias is None else bias,
            self.padding,
            ones,
            ones,
            1,
            *fusion,
        )
        return out


class PrepackedUpConv(nn.Module):
    """A 3x3 convolution of an image doubled by nearest neighbours, computed from the small one."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        # Line 2i of the doubled image depends on lines i-1, i, i of the small one, and line 2i + 1
        # on lines i, i, i+1; columns likewise. Indexed by (place, tap of 2, tap of 3).
        sums = torch.tensor(
            [[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], dtype=conv.weight.dtype
        )
        weight = torch.einsum("pak,qbl,oikl->pqoiab", sums, sums, conv.weight).flatten(0, 2)
        self.conv = PrepackedConv(
            weight, None if conv.bias is None else conv.bias.repeat(4), padding=1
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x `[B, C, H, W]` in fp32 to `[B, C', 2H, 2W]`, channels last."""
        height, width = x.shape[-2:]
        y = self.conv(x).unflatten(1, (2, 2, -1))  # (B, line, column, C', H + 1, W + 1)
        out = torch.empty(
            (len(x), y.shape[3], 2 * height, 2 * width),
            dtype=x.dtype,
            memory_format=torch.channels_last,
        )
        for p in range(2):
            for q in range(2):
                out[:, :, p::2, q::2] = y[:, p, q, :, p : p + height, q : q + width]
        return out


class PrepackedResBlock(ResBlock):
    """A residual block of prepacked convolutions, with two passes over the image less.

    The timestep's projection is added with the bias, and the skip path is added by the second
    convolution."""

    conv1: PrepackedConv | PrepackedUpConv  # type: ignore[assignment]
    conv2: PrepackedConv  # type: ignore[assignment]
    skip: PrepackedConv | nn.Identity  # type: ignore[assignment]

    def __init__(self, block: ResBlock) -> None:
        nn.Module.__init__(self)
        self.resize = block.resize
        self.scale_shift = block.scale_shift
        self.norm1 = block.norm1
        self.norm2 = block.norm2
        self.time_proj = block.time_proj
        self.conv1 = PrepackedUpConv(block.conv1) if block.resize == "up" else _prepack(block.conv1)
        self.conv2 = _prepack(block.conv2)
        self.skip = _prepack(block.skip) if isinstance(block.skip, nn.Conv2d) else block.skip

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Compute the same as `ResBlock.forward`."""
        h = F.silu(self.norm1(x))
        time = self.time_proj(emb)
        if self.resize == "down":
            h = self._resize(h)
        if self.scale_shift:
            scale, shift = time[..., None, None].chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(self.conv1(h)), 1 + scale)
        elif len(x) == 1 and isinstance(self.conv1, PrepackedConv) and self.conv1.bias is not None:
            h = self.norm2(self.conv1(h, bias=self.conv1.bias + time[0]))
        else:
            h = self.norm2(self.conv1(h) + time[..., None, None])
        skip = self.skip(self._resize(x)).contiguous(memory_format=torch.channels_last)
        out: Tensor = self.conv2(F.silu(h), added=skip)
        return out


def prepack_convolutions(networks: Iterable[nn.Module]) -> None:
    """Replace the fp32 convolutions of U-Nets on the CPU by prepacked ones, in place.

    The networks can then run, and can neither be trained nor saved. Nothing happens without oneDNN,
    and on other processors than x86, where it was not measured."""
    if not (torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")):
        return
    for network in networks:
        for module in list(network.modules()):
            if isinstance(module, UNet):
                _prepack_unet(module)


def _prepack_unet(unet: UNet) -> None:
    weight = unet.conv_in.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return
    unet.conv_in = _prepack(unet.conv_in)  # type: ignore[assignment]
    unet.conv_out = _prepack(unet.conv_out)  # type: ignore[assignment]
    for module in list(unet.modules()):
        for name, child in module.named_children():
            if isinstance(child, ResBlock):
                setattr(module, name, PrepackedResBlock(child))


def _prepack(conv: nn.Conv2d) -> PrepackedConv:
    return PrepackedConv(conv.weight, conv.bias, int(conv.padding[0]))
