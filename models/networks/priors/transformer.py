"""The causal transformer of both priors, with the keys and values of its prefix cached."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The keys and values of one attention.
KeysValues = tuple[Tensor, Tensor]
# One row's keys and values of each layer: `[1, heads, N, head]` each.
Cache = list[KeysValues]


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
        """Transform x `[B, N, C]`; keep `[B, 1, N, N]` is True where a query attends to a key."""
        return self.attend(x, keep)[0]

    def attend(
        self, x: Tensor, keep: Tensor, past: KeysValues | None = None
    ) -> tuple[Tensor, KeysValues]:
        """Transform x `[B, N, C]` after `past` keys and values `[B, heads, P, head]`.

        keep is `[B, 1, N, P + N]`. Returns x and the keys and values of all P + N positions."""
        h = self.norm1(x)
        q, k, v = (
            project(h).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        if past is not None:
            k = torch.cat((past[0], k), dim=2)
            v = torch.cat((past[1], v), dim=2)
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
        x = x + self.to_out(h.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x)))), (k, v)


def causal_mask(mask: Tensor) -> Tensor:
    """Return the causal attention mask `[B, 1, N, N]` of a token mask `[B, N]`.

    A query attends to itself and to tokens before it. A padded query attends to itself, because
    without any key its softmax would be NaN."""
    length = mask.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    return before & mask[:, None, None] | torch.eye(length, dtype=torch.bool, device=mask.device)


def encode_prefix(blocks: Sequence[Block], x: Tensor, mask: Tensor) -> tuple[Tensor, list[Cache]]:
    """Run blocks over x `[B, N, C]` with token mask `[B, N]`.

    Returns the output `[B, N, C]`, and each row's cache without padding."""
    keep = causal_mask(mask)
    layers = []
    for block in blocks:
        x, past = block.attend(x, keep)
        layers.append(past)
    caches = [
        [(k[row : row + 1, :, mask[row]], v[row : row + 1, :, mask[row]]) for k, v in layers]
        for row in range(len(mask))
    ]
    return x, caches


def pad_caches(caches: Sequence[Cache], min_length: int = 0) -> tuple[list[KeysValues], Tensor]:
    """Stack rows' caches: keys and values `[B, heads, P, head]` a layer, and a mask `[B, P]`.

    P is the longest row's length, at least `min_length`. Shorter rows are padded in front, so that
    new positions come last in all."""
    lengths = [cache[0][0].shape[2] for cache in caches]
    longest = max(*lengths, min_length)
    mask = torch.tensor(
        [[False] * (longest - n) + [True] * n for n in lengths], device=caches[0][0][0].device
    )

    def join(layer: int, part: int) -> Tensor:
        pairs = zip(caches, lengths, strict=True)
        return torch.cat([F.pad(c[layer][part], (0, 0, longest - n, 0)) for c, n in pairs])

    return [(join(layer, 0), join(layer, 1)) for layer in range(len(caches[0]))], mask
