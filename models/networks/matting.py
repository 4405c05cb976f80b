"""A small matting network: how much of each pixel belongs to the thing shown, for transparent
stickers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class MattingConfig:
    """`channels` has one entry a level, from the finest; the stem works on squares of `patch_size`
    pixels."""

    channels: tuple[int, ...] = (32, 48, 64, 96)
    patch_size: int = 4
    norm_groups: int = 8


class _Block(nn.Module):
    def __init__(self, channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm = nn.GroupNorm(groups, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.norm(self.conv1(x)))
        out: Tensor = h + F.silu(self.conv2(h))
        return out


class MattingNetwork(nn.Module):
    """Images `[B, 3, S, S]` in [-1, 1] -> alpha `[B, 1, S, S]` in [0, 1]. S is a multiple of 32."""

    def __init__(self, config: MattingConfig) -> None:
        super().__init__()
        self.config = config
        widths = tuple(config.channels)
        patch = config.patch_size
        self.stem = nn.Conv2d(3 * patch**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            _Block(before, after, config.norm_groups)
            for before, after in zip((widths[0], *widths), widths, strict=False)
        )
        self.up = nn.ModuleList(
            _Block(coarse + fine, fine, config.norm_groups)
            for coarse, fine in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.out = nn.Conv2d(widths[0], patch**2, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(F.pixel_unshuffle(images, self.config.patch_size))
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if level else x)
            skips.append(x)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            x = block(torch.cat((F.interpolate(x, scale_factor=2.0), skip), dim=1))
        return torch.sigmoid(F.pixel_shuffle(self.out(x), self.config.patch_size))
