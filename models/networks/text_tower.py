"""A text encoder of MiniLM's shape (Wang et al. 2020, arXiv 2002.10957): post-norm transformer
layers, a mean, a residual head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PAD_ID = 0


@dataclass(frozen=True)
class TextTowerConfig:
    """Sizes of the text encoder."""

    vocab_size: int
    width: int = 384
    layers: int = 6
    heads: int = 12
    context_length: int = 77
    hidden: int = 1024  # width of the head's hidden layer


class TextLayer(nn.Module):
    """One post-norm transformer layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, eps=1e-12)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x `[B, L, W]`, mask `[B, 1, 1, L]` True at tokens -> `[B, L, W]`."""
        q, k, v = (
            f(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for f in (self.to_q, self.to_k, self.to_v)
        )
        attended = (
            F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        )
        x = self.norm1(x + self.to_out(attended))
        out: Tensor = self.norm2(x + self.down(F.gelu(self.up(x))))
        return out


class TextTower(nn.Module):
    """Map token ids to hidden states and an embedding of the same width."""

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.positions = nn.Parameter(torch.randn(config.context_length, width) * 0.02)
        self.norm_in = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(TextLayer(width, config.heads) for _ in range(config.layers))
        last = nn.Linear(config.hidden, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(nn.Linear(width, config.hidden), nn.GELU(), last)

    def hidden_states(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids `[B, L]`, `PAD_ID` after the end -> hidden states `[B, L, W]` and mask `[B,
        L]`, True at tokens."""
        mask = tokens != PAD_ID
        x = self.norm_in(self.token_embedding(tokens) + self.positions[: tokens.shape[1]])
        for layer in self.layers:
            x = layer(x, mask[:, None, None])
        return x, mask

    def embed(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Hidden states `[B, L, W]` and mask `[B, L]` -> embeddings `[B, W]`, not normalized."""
        weights = mask.to(hidden.dtype)[..., None]
        mean = F.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)
        embedding: Tensor = mean + self.head(mean)
        return embedding
