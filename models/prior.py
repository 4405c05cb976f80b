"""The diffusion prior (paper §2.2): from a caption to an image embedding.

A causal transformer over [encoded caption, z_t, timestep, noised z_i, query]; what it says at the query is the
un-noised z_i itself, not the noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.clip import TextEncoding
from models.unet import timestep_embedding


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
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """x `[B, N, C]`, keep `[B, 1, N, N]` True where a query may look -> `[B, N, C]`."""
        return self.attended(x, keep)[0]

    def attended(self, x: Tensor, keep: Tensor, past: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As `forward`, after `past` keys and values `[B, heads, P, head]`; keep is `[B, 1, N, P + N]`. Gives those of all P + N too."""
        h = self.norm1(x)
        q, k, v = (f(h).unflatten(2, (self.heads, -1)).transpose(1, 2) for f in (self.to_q, self.to_k, self.to_v))
        if past is not None:
            k, v = torch.cat((past[0], k), dim=2), torch.cat((past[1], v), dim=2)
        x = x + self.to_out(F.scaled_dot_product_attention(q, k, v, attn_mask=keep).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x)))), (k, v)


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
        self.time_in, self.time_out = nn.Linear(width, width), nn.Linear(width, width)
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
        """x_t `[B, D]` (normalized, noised z_i), t `[B]`, the encoded captions -> prediction `[B, D]`."""
        batch, length = text.mask.shape
        z_t = self.z_t_proj(text.z_t * text.z_t.shape[1] ** 0.5 if self.config.unit_norm else text.z_t)
        time = self.time_out(F.silu(self.time_in(timestep_embedding(t, self.config.width).to(x_t.dtype))))
        last = torch.stack((z_t, time, self.x_proj(x_t), self.query.expand(batch, -1)), dim=1)  # (B, 4, C)
        positions = torch.cat((self.positions[:length], self.positions[-4:]))
        x = torch.cat((self.text_proj(text.hidden), last), dim=1) + positions  # (B, L + 4, C)
        seen = F.pad(text.mask, (0, 4), value=True)
        causal = torch.ones(length + 4, length + 4, dtype=torch.bool, device=x.device).tril()
        # A padded query must see something, or its softmax is nan: it sees itself.
        keep = causal & seen[:, None, None] | torch.eye(length + 4, dtype=torch.bool, device=x.device)
        for block in self.blocks:
            x = block(x, keep)
        prediction: Tensor = self.out(self.norm_out(x[:, -1]))
        return prediction
