"""The ADM U-Net (Dhariwal & Nichol 2021, arXiv 2105.05233) that the decoder and the upsamplers share.

BigGAN residual blocks that also resize, FiLM ("scale-shift") or additive timestep conditioning, and attention whose
keys are the context tokens before the image's own positions (GLIDE, Nichol et al. 2021). Where `patch_size` is
above 1 the network works on squares of pixels (space to depth): what makes the embedded default fast on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.kernels import group_norm


@dataclass(frozen=True)
class UNetConfig:
    """Numbers of a U-Net. Tuples have one entry a level, from the finest to the coarsest."""

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


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding `[B, dim]` of timesteps `[B]`, cosines first, as in guided-diffusion."""
    half = dim // 2
    frequencies = torch.exp(
        -math.log(10000) * torch.arange(half, device=t.device, dtype=torch.float32) / half
    )
    angles = t[:, None].float() * frequencies[None]
    return torch.cat((angles.cos(), angles.sin()), dim=1)


class ResBlock(nn.Module):
    """Two convolutions around the conditioning, with an optional resize (`"up"` or `"down"`) on both paths."""

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

    def _resized(self, x: Tensor) -> Tensor:
        if self.resize == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2.0, mode="nearest") if self.resize == "up" else x

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x `[B, C, H, W]`, emb `[B, E]` (already through its SiLU) -> `[B, C', H', W']`."""
        if group_norm.usable(x):
            return self._fused(x, emb)
        h = self.conv1(self._resized(F.silu(self.norm1(x))))
        time: Tensor = self.time_proj(emb)[..., None, None]
        if self.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        else:
            h = self.norm2(h + time)
        h = self.conv2(self.dropout(F.silu(h)))
        out: Tensor = self.skip(self._resized(x)) + h
        return out

    def _fused(self, x: Tensor, emb: Tensor) -> Tensor:
        """The same, with the convolutions' biases in the passes after them."""
        h = group_norm.unbiased(self.conv1, self._resized(group_norm.norm(x, self.norm1)))
        time = self.time_proj(emb)
        bias = cast(Tensor, self.conv1.bias)
        h = (
            group_norm.norm(h, self.norm2, bias[None], time)
            if self.scale_shift
            else group_norm.norm(h, self.norm2, time + bias)
        )
        skipped = self._resized(x)
        bias = cast(Tensor, self.conv2.bias)
        if isinstance(self.skip, nn.Conv2d):
            skipped = group_norm.unbiased(self.skip, skipped)
            bias = bias + cast(Tensor, self.skip.bias)
        return group_norm.total(group_norm.unbiased(self.conv2, h), skipped, bias)


# Keys and values of context tokens, `[B, K, C]` each.
Keys = tuple[Tensor, Tensor]


class Attention(nn.Module):
    """Self-attention over positions, with the context tokens' keys and values before the image's own."""

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

    def keys_of(self, context: Tensor) -> Keys:
        """Context tokens `[B, K, D]` -> their keys and values, `[B, K, C]` each."""
        return self.context_k(context), self.context_v(context)

    def forward(self, x: Tensor, keys: Keys | None, mask: Tensor | None) -> Tensor:
        """x `[B, C, H, W]`, keys of the context tokens, mask `[B, K]` True where there is one (None: all) -> `[B, C, H, W]`."""
        batch, channels, height, width = x.shape
        normed = group_norm.norm(x, self.norm, silu=False) if group_norm.usable(x) else self.norm(x)
        h = normed.flatten(2).transpose(1, 2)  # (B, HW, C)
        q = self.to_q(h)
        k = self.to_k(h)
        v = self.to_v(h)
        keep = None
        if keys is not None:
            k, v = (
                torch.cat(pair, dim=1) for pair in zip(keys, (k, v), strict=True)
            )  # (B, K + HW, C)
            if mask is not None:
                keep = F.pad(mask, (0, height * width), value=True)[
                    :, None, None
                ]  # (B, 1, 1, K + HW)
        q, k, v = (
            y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in (q, k, v)
        )  # (B, heads, N, head)
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
        h = self.to_out(h.transpose(1, 2).flatten(2))
        out: Tensor = x + h.transpose(1, 2).reshape(batch, channels, height, width)
        return out


class UNet(nn.Module):
    """The network. Levels run finest to coarsest; a level is residual blocks, each followed by attention where set."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.channels
        patch = config.patch_size**2
        self.time_in = nn.Linear(widths[0], config.time_embed_dim)
        self.time_out = nn.Linear(config.time_embed_dim, config.time_embed_dim)
        self.conv_in = nn.Conv2d(config.in_channels * patch, widths[0], 3, padding=1)
        skips = [widths[0]]
        width = widths[0]

        def attention(level: int, channels: int) -> nn.Module:
            return Attention(channels, config) if config.attention[level] else nn.Identity()

        self.down = nn.ModuleList()
        for level, out in enumerate(widths):
            for _ in range(config.blocks):
                self.down.append(
                    nn.ModuleList((ResBlock(width, out, config), attention(level, out)))
                )
                width = out
                skips.append(width)
            if level < len(widths) - 1:
                self.down.append(
                    nn.ModuleList((ResBlock(width, width, config, "down"), nn.Identity()))
                )
                skips.append(width)
        self.middle = nn.ModuleList(
            (
                ResBlock(width, width, config),
                attention(len(widths) - 1, width),
                ResBlock(width, width, config),
            )
        )
        self.up = nn.ModuleList()
        for level, out in reversed(list(enumerate(widths))):
            for block in range(config.blocks + 1):
                resize = (
                    ResBlock(out, out, config, "up")
                    if level and block == config.blocks
                    else nn.Identity()
                )
                self.up.append(
                    nn.ModuleList(
                        (ResBlock(width + skips.pop(), out, config), attention(level, out), resize)
                    )
                )
                width = out
        self.norm_out = nn.GroupNorm(config.norm_groups, width)
        self.conv_out = nn.Conv2d(width, config.out_channels * patch, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def keys_of(self, context: Tensor) -> list[Keys]:
        """Context tokens `[B, K, D]` -> their keys and values in each attention. They do not depend on x or t."""
        return [
            module.keys_of(context) for module in self.modules() if isinstance(module, Attention)
        ]

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        emb: Tensor | None = None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """x `[B, C, H, W]`, timesteps t `[B]`, emb `[B, E]` added to the timestep embedding, context tokens
        `[B, K, D]` with mask `[B, K]` -> `[B, out, H, W]`."""
        return self.proceed(x, t, emb, None if context is None else self.keys_of(context), mask)

    def proceed(
        self,
        x: Tensor,
        t: Tensor,
        emb: Tensor | None,
        keys: Sequence[Keys] | None,
        mask: Tensor | None,
    ) -> Tensor:
        """As `forward`, after the context's keys from `keys_of`."""
        time = self.time_out(
            F.silu(self.time_in(timestep_embedding(t, self.config.channels[0]).to(x.dtype)))
        )
        time = F.silu(time if emb is None else time + emb)
        later = None if keys is None else iter(keys)

        def attended(attend: nn.Module, h: Tensor) -> Tensor:
            out: Tensor = (
                attend(h, None if later is None else next(later), mask)
                if isinstance(attend, Attention)
                else h
            )
            return out

        h = self.conv_in(F.pixel_unshuffle(x, self.config.patch_size))
        skips = [h]
        for level in self.down:
            block, attend = cast(nn.ModuleList, level)
            h = attended(attend, block(h, time))
            skips.append(h)
        first, attend, second = self.middle
        h = second(attended(attend, first(h, time)), time)
        for level in self.up:
            block, attend, resize = cast(nn.ModuleList, level)
            h = attended(attend, block(torch.cat((h, skips.pop()), dim=1), time))
            h = resize(h, time) if isinstance(resize, ResBlock) else h
        h = group_norm.norm(h, self.norm_out) if group_norm.usable(h) else F.silu(self.norm_out(h))
        return F.pixel_shuffle(self.conv_out(h), self.config.patch_size)
