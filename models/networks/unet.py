"""The ADM U-Net (Dhariwal & Nichol 2021, arXiv 2105.05233) of the decoder and the upsamplers.

BigGAN residual blocks that also resize, FiLM ("scale-shift") or additive timestep conditioning, and
attention whose keys are the context tokens before the image's positions (GLIDE, Nichol et al.
2021). With a `patch_size` above 1 the network works on squares of pixels (space to depth), which
makes the embedded default fast on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.kernels import group_norm


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of a U-Net. Tuples have one entry a level, from the finest to the coarsest."""

    in_channels: int
    out_channels: int
    channels: tuple[int, ...]
    blocks: int  # residual blocks a level on the way down; one more on the way up
    attention: tuple[bool, ...]
    time_embed_dim: int
    patch_size: int = 1
    head_channels: int = 64
    context_dim: int = 0  # 0: no context tokens
    scale_shift: bool = True
    norm_groups: int = 32
    dropout: float = 0.0

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> UNetConfig:
        """Create a config from JSON's fields, which has lists in place of tuples."""
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
        }
        return cls(**values)


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Return the sinusoidal embedding `[B, dim]` of timesteps `[B]`.

    Cosines come first, as in guided-diffusion."""
    half = dim // 2
    frequencies = torch.exp(
        -math.log(10000) * torch.arange(half, device=t.device, dtype=torch.float32) / half
    )
    angles = t[:, None].float() * frequencies[None]
    return torch.cat((angles.cos(), angles.sin()), dim=1)


class ResBlock(nn.Module):
    """Two convolutions around the timestep's conditioning.

    `resize` "up" or "down" changes the size by 2 on both paths."""

    def __init__(
        self, channels: int, out_channels: int, config: UNetConfig, resize: str | None = None
    ) -> None:
        super().__init__()
        self.resize = resize
        self.scale_shift = config.scale_shift
        self.norm1 = nn.GroupNorm(config.norm_groups, channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.time_proj = nn.Linear(
            config.time_embed_dim, out_channels * (2 if config.scale_shift else 1)
        )
        self.norm2 = nn.GroupNorm(config.norm_groups, out_channels)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = (
            nn.Conv2d(channels, out_channels, 1) if channels != out_channels else nn.Identity()
        )
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def _resize(self, x: Tensor) -> Tensor:
        if self.resize == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2.0, mode="nearest") if self.resize == "up" else x

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Transform x `[B, C, H, W]` to `[B, C', H', W']`, given emb `[B, E]` after its SiLU."""
        if group_norm.is_supported(x):
            return self._forward_fused(x, emb)
        h = self.conv1(self._resize(F.silu(self.norm1(x))))
        time: Tensor = self.time_proj(emb)[..., None, None]
        if self.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        else:
            h = self.norm2(h + time)
        h = self.conv2(self.dropout(F.silu(h)))
        out: Tensor = self.skip(self._resize(x)) + h
        return out

    def _forward_fused(self, x: Tensor, emb: Tensor) -> Tensor:
        """Compute `forward` with the convolutions' biases in the kernels after them."""
        h = group_norm.conv_without_bias(self.conv1, self._resize(group_norm.norm(x, self.norm1)))
        time = self.time_proj(emb)
        bias = cast(Tensor, self.conv1.bias)
        if self.scale_shift:
            h = group_norm.norm(h, self.norm2, bias[None], time)
        else:
            h = group_norm.norm(h, self.norm2, time + bias)
        skip = self._resize(x)
        bias = cast(Tensor, self.conv2.bias)
        if isinstance(self.skip, nn.Conv2d):
            skip = group_norm.conv_without_bias(self.skip, skip)
            bias = bias + cast(Tensor, self.skip.bias)
        return group_norm.add_with_bias(group_norm.conv_without_bias(self.conv2, h), skip, bias)


# Keys and values of context tokens, `[B, K, C]` each.
KeysValues = tuple[Tensor, Tensor]


class Attention(nn.Module):
    """Self-attention over positions, with the context tokens' keys and values in front."""

    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.heads = channels // config.head_channels
        self.norm = nn.GroupNorm(config.norm_groups, channels)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        if config.context_dim:
            self.context_k, self.context_v = (
                nn.Linear(config.context_dim, channels) for _ in range(2)
            )
        self.to_out = nn.Linear(channels, channels)
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.to_out.bias)

    def encode_context(self, context: Tensor) -> KeysValues:
        """Return the keys and values `[B, K, C]` of context tokens `[B, K, D]`."""
        return self.context_k(context), self.context_v(context)

    def forward(self, x: Tensor, context: KeysValues | None, mask: Tensor | None) -> Tensor:
        """Transform x `[B, C, H, W]`, given the context's keys and values.

        The mask `[B, K]` is True at real tokens; None means all."""
        batch, channels, height, width = x.shape
        if group_norm.is_supported(x):
            normed = group_norm.norm(x, self.norm, silu=False)
        else:
            normed = self.norm(x)
        h = normed.flatten(2).transpose(1, 2)  # (B, HW, C)
        q = self.to_q(h)
        k = self.to_k(h)
        v = self.to_v(h)
        keep = None
        if context is not None:
            k = torch.cat((context[0], k), dim=1)  # (B, K + HW, C)
            v = torch.cat((context[1], v), dim=1)
            if mask is not None:
                # (B, 1, 1, K + HW)
                keep = F.pad(mask, (0, height * width), value=True)[:, None, None]
        # (B, heads, N, head)
        q, k, v = (y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
        h = self.to_out(h.transpose(1, 2).flatten(2))
        out: Tensor = x + h.transpose(1, 2).reshape(batch, channels, height, width)
        return out


class UNet(nn.Module):
    """The network. Levels go from the finest to the coarsest.

    A level is residual blocks, each followed by attention if `attention` has it."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.channels
        patch = config.patch_size**2
        self.time_in = nn.Linear(widths[0], config.time_embed_dim)
        self.time_out = nn.Linear(config.time_embed_dim, config.time_embed_dim)
        self.conv_in = nn.Conv2d(config.in_channels * patch, widths[0], 3, padding=1)
        skips = [widths[0]]
        self.down = nn.ModuleList(self._down_levels(skips))
        width = widths[-1]
        self.middle = nn.ModuleList(
            (
                ResBlock(width, width, config),
                self._attention(len(widths) - 1),
                ResBlock(width, width, config),
            )
        )
        self.up = nn.ModuleList(self._up_levels(skips))
        self.norm_out = nn.GroupNorm(config.norm_groups, widths[0])
        self.conv_out = nn.Conv2d(widths[0], config.out_channels * patch, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def _attention(self, level: int) -> nn.Module:
        if not self.config.attention[level]:
            return nn.Identity()
        return Attention(self.config.channels[level], self.config)

    def _down_levels(self, skips: list[int]) -> Iterator[nn.ModuleList]:
        """Create the way down, and append the width of each block's output to `skips`."""
        config = self.config
        width = config.channels[0]
        for level, out in enumerate(config.channels):
            for _ in range(config.blocks):
                yield nn.ModuleList((ResBlock(width, out, config), self._attention(level)))
                width = out
                skips.append(width)
            if level < len(config.channels) - 1:
                yield nn.ModuleList((ResBlock(width, width, config, "down"), nn.Identity()))
                skips.append(width)

    def _up_levels(self, skips: list[int]) -> Iterator[nn.ModuleList]:
        """Create the way up, whose blocks take the widths in `skips` from the end."""
        config = self.config
        width = config.channels[-1]
        for level, out in reversed(list(enumerate(config.channels))):
            for block in range(config.blocks + 1):
                is_last = block == config.blocks
                resize = ResBlock(out, out, config, "up") if level and is_last else nn.Identity()
                merge = ResBlock(width + skips.pop(), out, config)
                yield nn.ModuleList((merge, self._attention(level), resize))
                width = out

    def encode_context(self, context: Tensor) -> list[KeysValues]:
        """Return the keys and values of context tokens `[B, K, D]` in each attention.

        They depend neither on x nor on t."""
        return [
            module.encode_context(context)
            for module in self.modules()
            if isinstance(module, Attention)
        ]

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        emb: Tensor | None = None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Transform x `[B, C, H, W]` at timesteps t `[B]` to `[B, out, H, W]`.

        emb `[B, E]` is added to the timestep embedding; context tokens are `[B, K, D]` with a mask
        `[B, K]`."""
        encoded = None if context is None else self.encode_context(context)
        return self.forward_encoded(x, t, emb, encoded, mask)

    def forward_encoded(
        self,
        x: Tensor,
        t: Tensor,
        emb: Tensor | None,
        context: Sequence[KeysValues] | None,
        mask: Tensor | None,
    ) -> Tensor:
        """Compute `forward` from the context's keys and values of `encode_context`."""
        time = timestep_embedding(t, self.config.channels[0]).to(x.dtype)
        time = self.time_out(F.silu(self.time_in(time)))
        time = F.silu(time if emb is None else time + emb)
        remaining = None if context is None else iter(context)

        def attend(module: nn.Module, h: Tensor) -> Tensor:
            if not isinstance(module, Attention):
                return h
            out: Tensor = module(h, None if remaining is None else next(remaining), mask)
            return out

        h = self.conv_in(F.pixel_unshuffle(x, self.config.patch_size))
        skips = [h]
        for level in self.down:
            block, attention = cast(nn.ModuleList, level)
            h = attend(attention, block(h, time))
            skips.append(h)
        first, attention, second = self.middle
        h = second(attend(attention, first(h, time)), time)
        for level in self.up:
            block, attention, resize = cast(nn.ModuleList, level)
            h = attend(attention, block(torch.cat((h, skips.pop()), dim=1), time))
            h = resize(h, time) if isinstance(resize, ResBlock) else h
        if group_norm.is_supported(h):
            h = group_norm.norm(h, self.norm_out)
        else:
            h = F.silu(self.norm_out(h))
        return F.pixel_shuffle(self.conv_out(h), self.config.patch_size)
