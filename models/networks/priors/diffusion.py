"""The diffusion prior (paper §2.2): from a prompt to an image embedding.

A causal transformer over [encoded prompt, z_t, timestep, noised z_i, query]. Its output at the
query is the un-noised z_i itself, not the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.clip import TextEncoding
from models.networks.dtypes import to_float32
from models.networks.priors.transformer import (
    Block,
    Cache,
    KeysValues,
    causal_mask,
    encode_prefix,
    pad_caches,
)
from models.networks.unet import timestep_embedding


@dataclass(frozen=True)
class DiffusionPriorConfig:
    """Sizes of the diffusion prior, its noise schedule and what it predicts."""

    embed_dim: int  # of z_t and z_i
    text_width: int  # of the text encoder's hidden states
    width: int
    layers: int
    heads: int
    context_length: int = 77
    clip_range: float = 5.0  # predictions are clamped to this many standard deviations
    # z_t has unit norm and is scaled to unit variance per dimension; otherwise it stays unchanged.
    unit_norm: bool = True
    schedule: str = "cosine"
    prediction_type: str = "sample"


class DiffusionPrior(nn.Module):
    """Predicts x_0, epsilon or v (its prediction_type) from the prompt, z_t and a noised z_i."""

    blocks: Sequence[Block]
    clip_mean: Tensor
    clip_std: Tensor

    def __init__(self, config: DiffusionPriorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.text_proj = nn.Linear(config.text_width, width)
        self.z_t_proj = nn.Linear(config.embed_dim, width)
        self.time_in = nn.Linear(width, width)
        self.time_out = nn.Linear(width, width)
        self.x_proj = nn.Linear(config.embed_dim, width)
        self.query = nn.Parameter(torch.randn(width) * 0.02)
        # Positions below context_length are the prompt's. The last four are those of z_t, the
        # timestep, z_i and the query.
        self.positions = nn.Parameter(torch.randn(config.context_length + 4, width) * 0.02)
        blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.layers))
        # A ModuleList is a sequence of its modules.
        self.blocks = blocks  # type: ignore[assignment]
        self.norm_out = nn.LayerNorm(width)
        self.out = nn.Linear(width, config.embed_dim)
        self.register_buffer("clip_mean", torch.zeros(config.embed_dim))
        self.register_buffer("clip_std", torch.ones(config.embed_dim))

    def normalize(self, z_i: Tensor) -> Tensor:
        """Scale z_i `[B, D]` to zero mean and unit variance over the training set."""
        return (z_i - self.clip_mean) / self.clip_std

    def denormalize(self, x_0: Tensor) -> Tensor:
        """Invert `normalize`."""
        return x_0 * self.clip_std + self.clip_mean

    def forward(self, x_t: Tensor, t: Tensor, text: TextEncoding) -> Tensor:
        """Predict `[B, D]` from the normalized, noised z_i x_t `[B, D]`, t `[B]` and the prompts.

        Inputs and the prediction are in fp32 whatever the weights' dtype."""
        x = torch.cat((self._prefix(text), self._suffix(x_t, t)), dim=1)
        keep = causal_mask(F.pad(text.mask, (0, 4), value=True))
        for block in self.blocks:
            x = block(x, keep)
        return to_float32(self.out(self.norm_out(x[:, -1])))

    def encode_prefix(self, text: TextEncoding) -> list[Cache]:
        """Return each prompt's keys and values, without padding, for `denoise`.

        The mask is causal, so the positions before the timestep are the same at every step. Of
        n + 4 positions (n tokens; 81 in Karlo) n + 1 are computed once instead of at each step."""
        mask = F.pad(text.mask, (0, 1), value=True)
        return encode_prefix(self.blocks, self._prefix(text), mask)[1]

    def denoise(self, x_t: Tensor, t: Tensor, caches: Sequence[Cache]) -> Tensor:
        """Predict as `forward`, after the caches from `encode_prefix`."""
        return self.denoise_padded(x_t, t, *pad_caches(caches))

    def denoise_padded(
        self, x_t: Tensor, t: Tensor, layers: Sequence[KeysValues], mask: Tensor
    ) -> Tensor:
        """Predict as `denoise`, after the layers and mask from `pad_caches`."""
        x = self._suffix(x_t, t)
        length = x.shape[1]
        tail = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        tail = tail.expand(len(x), 1, -1, -1)
        keep = torch.cat((mask[:, None, None].expand(-1, -1, length, -1), tail), dim=3)
        for block, past in zip(self.blocks, layers, strict=True):
            x, _ = block.attend(x, keep, past)
        return to_float32(self.out(self.norm_out(x[:, -1])))

    def _prefix(self, text: TextEncoding) -> Tensor:
        """Return prompt and z_t as `[B, L + 1, C]`."""
        z_t = text.z_t * text.z_t.shape[1] ** 0.5 if self.config.unit_norm else text.z_t
        z_t = self.z_t_proj(z_t.to(self.query.dtype))
        positions = torch.cat((self.positions[: text.mask.shape[1]], self.positions[-4:-3]))
        return torch.cat((self.text_proj(text.hidden), z_t[:, None]), dim=1) + positions

    def _suffix(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return timestep, noised z_i and query as `[B, 3, C]`."""
        time = timestep_embedding(t, self.config.width).to(self.query.dtype)
        time = self.time_out(F.silu(self.time_in(time)))
        z_i = self.x_proj(x_t.to(self.query.dtype))
        tokens = torch.stack((time, z_i, self.query.expand(len(x_t), -1)), dim=1)
        return tokens + self.positions[-3:]
