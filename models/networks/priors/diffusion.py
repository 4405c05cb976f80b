"""The diffusion prior (paper §2.2): from a caption to an image embedding.

A causal transformer over [encoded caption, z_t, timestep, noised z_i, query]; what it says at the query is the
un-noised z_i itself, not the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.clip import TextEncoding, widened
from models.networks.unet import timestep_embedding


@dataclass(frozen=True)
class PriorConfig:
    """Numbers of the prior."""

    embed_dim: int  # of z_t and z_i
    text_width: int  # of the text encoder's hidden states
    width: int
    layers: int
    heads: int
    context_length: int = 77
    clip_range: float = 5.0  # predictions are clamped to this many standard deviations
    unit_norm: bool = True  # z_t has unit norm, and is scaled to unit variance a dimension; else it is taken as it is
    schedule: str = "cosine"
    prediction_type: str = "sample"


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(width, width) for _ in range(4))
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """x `[B, N, C]`, keep `[B, 1, N, N]` True where a query may look -> `[B, N, C]`."""
        return self.attended(x, keep)[0]

    def attended(
        self, x: Tensor, keep: Tensor, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As `forward`, after `past` keys and values `[B, heads, P, head]`; keep is `[B, 1, N, P + N]`. Gives those of all P + N too."""
        h = self.norm1(x)
        q, k, v = (
            f(h).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for f in (self.to_q, self.to_k, self.to_v)
        )
        if past is not None:
            k = torch.cat((past[0], k), dim=2)
            v = torch.cat((past[1], v), dim=2)
        x = x + self.to_out(
            F.scaled_dot_product_attention(q, k, v, attn_mask=keep).transpose(1, 2).flatten(2)
        )
        return x + self.down(F.gelu(self.up(self.norm2(x)))), (k, v)


# One row's keys and values so far, a layer: `[1, heads, N, head]` each.
Cache = list[tuple[Tensor, Tensor]]


def causal(seen: Tensor) -> Tensor:
    """Mask of tokens `[B, N]` -> where each query may look `[B, 1, N, N]`: at itself and at tokens before it."""
    length = seen.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=seen.device).tril()
    # A padded query must see something, or its softmax is nan: it sees itself.
    return before & seen[:, None, None] | torch.eye(length, dtype=torch.bool, device=seen.device)


def prefix_caches(blocks: Sequence[Block], x: Tensor, seen: Tensor) -> tuple[Tensor, list[Cache]]:
    """Blocks over x `[B, N, C]` with mask `[B, N]` -> what comes out, and each row's cache without padding."""
    keep = causal(seen)
    layers = []
    for block in blocks:
        x, past = block.attended(x, keep)
        layers.append(past)
    return x, [
        [(k[row : row + 1, :, seen[row]], v[row : row + 1, :, seen[row]]) for k, v in layers]
        for row in range(len(seen))
    ]


def padded(caches: Sequence[Cache], least: int = 0) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Rows' caches as one batch: keys and values `[B, heads, P, head]` a layer, and a mask `[B, P]`. Those shorter than the longest, or
    than `least`, are padded in front, so that what is added comes last in all."""
    lengths = [cache[0][0].shape[2] for cache in caches]
    longest = max(*lengths, least)
    seen = torch.tensor(
        [[False] * (longest - n) + [True] * n for n in lengths], device=caches[0][0][0].device
    )
    layers = []
    for layer in range(len(caches[0])):
        k, v = (
            torch.cat(
                [
                    F.pad(cache[layer][part], (0, 0, longest - n, 0))
                    for cache, n in zip(caches, lengths, strict=True)
                ]
            )
            for part in (0, 1)
        )
        layers.append((k, v))
    return layers, seen


class DiffusionPrior(nn.Module):
    """Caption, z_t and a noised z_i -> what the checkpoint's prediction_type says (the un-noised z_i for ours)."""

    clip_mean: Tensor
    clip_std: Tensor

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.text_proj = nn.Linear(config.text_width, width)
        self.z_t_proj = nn.Linear(config.embed_dim, width)
        self.time_in = nn.Linear(width, width)
        self.time_out = nn.Linear(width, width)
        self.x_proj = nn.Linear(config.embed_dim, width)
        self.query = nn.Parameter(torch.randn(width) * 0.02)
        # Position p < context_length is the caption's; the last four are z_t's, the timestep's, z_i's and the query's.
        self.positions = nn.Parameter(torch.randn(config.context_length + 4, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.layers))
        self.norm_out = nn.LayerNorm(width)
        self.out = nn.Linear(width, config.embed_dim)
        self.register_buffer("clip_mean", torch.zeros(config.embed_dim))
        self.register_buffer("clip_std", torch.ones(config.embed_dim))

    def normalize(self, z_i: Tensor) -> Tensor:
        """z_i `[B, D]` -> what the diffusion works on: zero mean and unit variance over the training set."""
        return (z_i - self.clip_mean) / self.clip_std

    def denormalize(self, x_0: Tensor) -> Tensor:
        """The inverse of `normalize`."""
        return x_0 * self.clip_std + self.clip_mean

    def forward(self, x_t: Tensor, t: Tensor, text: TextEncoding) -> Tensor:
        """In fp32 whatever the weights' dtype: x_t `[B, D]` (normalized, noised z_i), t `[B]`, the encoded captions -> prediction
        `[B, D]`."""
        x = torch.cat((self._prefix(text), self._rest(x_t, t)), dim=1)
        keep = causal(F.pad(text.mask, (0, 4), value=True))
        for block in self.blocks:
            x = block(x, keep)
        return widened(self.out(self.norm_out(x[:, -1])))

    def begin(self, text: TextEncoding) -> list[Cache]:
        """Each caption's keys and values, without padding, for `proceed`. The mask is causal, so what stands before the timestep is the
        same at every step: of n + 4 positions (n tokens; 81 in Karlo) n + 1 are computed once instead of at each step."""
        return prefix_caches(
            cast(list[Block], list(self.blocks)),
            self._prefix(text),
            F.pad(text.mask, (0, 1), value=True),
        )[1]

    def proceed(self, x_t: Tensor, t: Tensor, caches: Sequence[Cache]) -> Tensor:
        """As `forward`, after the captions' caches from `begin`."""
        return self.after(x_t, t, *padded(caches))

    def after(
        self, x_t: Tensor, t: Tensor, layers: Sequence[tuple[Tensor, Tensor]], seen: Tensor
    ) -> Tensor:
        """As `proceed`, with what `padded` made of the caches."""
        x = self._rest(x_t, t)
        tail = (
            torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device)
            .tril()
            .expand(len(x), 1, -1, -1)
        )
        keep = torch.cat((seen[:, None, None].expand(-1, -1, x.shape[1], -1), tail), dim=3)
        for block, past in zip(cast(list[Block], list(self.blocks)), layers, strict=True):
            x, _ = block.attended(x, keep, past)
        return widened(self.out(self.norm_out(x[:, -1])))

    def _prefix(self, text: TextEncoding) -> Tensor:
        """Caption and z_t, `[B, L + 1, C]`."""
        z_t = text.z_t * text.z_t.shape[1] ** 0.5 if self.config.unit_norm else text.z_t
        z_t = self.z_t_proj(z_t.to(self.query.dtype))
        positions = torch.cat((self.positions[: text.mask.shape[1]], self.positions[-4:-3]))
        return torch.cat((self.text_proj(text.hidden), z_t[:, None]), dim=1) + positions

    def _rest(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Timestep, noised z_i and query, `[B, 3, C]`."""
        time = self.time_out(
            F.silu(self.time_in(timestep_embedding(t, self.config.width).to(self.query.dtype)))
        )
        return (
            torch.stack(
                (time, self.x_proj(x_t.to(self.query.dtype)), self.query.expand(len(x_t), -1)),
                dim=1,
            )
            + self.positions[-3:]
        )
