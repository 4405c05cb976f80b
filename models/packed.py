"""Convolutions for a CPU, their weights laid out once as oneDNN wants them.

torch lays them out anew at every call, which costs a small picture up to a quarter of its time. And where a picture is doubled in size
before a 3x3 convolution, every output pixel sees only 2x2 different ones: four 2x2 convolutions of the small picture, one for each place
in the square that a pixel becomes, say the same with 4/9 of the products.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from models.unet import ResBlock


class PackedConv(nn.Module):
    """What a convolution of stride 1 computes. It has no parameters: there is nothing in it to train or save."""

    def __init__(self, weight: Tensor, bias: Tensor | None, padding: int) -> None:
        super().__init__()
        self.weight, self.padding = weight.detach(), [padding, padding]
        self.bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """x `[B, C, H, W]` in fp32 -> `[B, C', H', W']`, channels last."""
        x = x.contiguous(memory_format=torch.channels_last)
        if not self.weight.is_mkldnn:
            # Only now: without the size of a picture oneDNN may choose a layout that costs twenty times the convolution. One chosen for
            # some batch serves others as well (measured).
            self.weight = torch._C._nn.mkldnn_reorder_conv2d_weight(
                self.weight.contiguous().to_mkldnn(), self.padding, [1, 1], [1, 1], 1, list(x.shape)
            )
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, self.padding, [1, 1], [1, 1], 1, "none", [], "")
        return out


class PackedUpConv(nn.Module):
    """What a 3x3 convolution makes of a picture doubled in size by nearest neighbours, from the small one."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        # Row 2i of the doubled picture sees the rows i-1, i, i of the small one, and row 2i + 1 the rows i, i, i+1; so do columns.
        sums = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], dtype=conv.weight.dtype)  # (place, tap of 2, tap of 3)
        weight = torch.einsum("pak,qbl,oikl->pqoiab", sums, sums, conv.weight).flatten(0, 2)
        self.conv = PackedConv(weight, None if conv.bias is None else conv.bias.repeat(4), padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x `[B, C, H, W]` in fp32 -> `[B, C', 2H, 2W]`, channels last."""
        height, width = x.shape[-2:]
        y = self.conv(x).unflatten(1, (2, 2, -1))  # (B, row, column, C', H + 1, W + 1)
        out = torch.empty((len(x), y.shape[3], 2 * height, 2 * width), dtype=x.dtype, memory_format=torch.channels_last)
        for p in range(2):
            for q in range(2):
                out[:, :, p::2, q::2] = y[:, p, q, :, p : p + height, q : q + width]
        return out


def pack(networks: Iterable[nn.Module]) -> None:
    """Exchange the fp32 convolutions of networks on the CPU, in place. Their weights are gone from the networks then, which can be
    run, and neither trained nor saved. Where torch has no oneDNN nothing happens."""
    if not torch.backends.mkldnn.is_available():
        return
    for network in networks:
        for module in list(network.modules()):
            if isinstance(module, ResBlock) and module.resize == "up" and _packable(module.conv1):
                module.conv1, module.conv1_resizes = PackedUpConv(module.conv1), True
            for name, child in module.named_children():
                if _packable(child):
                    setattr(module, name, PackedConv(child.weight, child.bias, child.padding[0]))


def _packable(module: nn.Module) -> bool:
    """Whether this is one of the convolutions of our U-Nets, on the CPU and in fp32."""
    return (
        isinstance(module, nn.Conv2d)
        and module.weight.device.type == "cpu"
        and module.weight.dtype == torch.float32
        and (module.stride, module.dilation, module.groups) == ((1, 1), (1, 1), 1)
        and isinstance(module.padding[0], int)
        and module.padding[0] == module.padding[1]
    )
