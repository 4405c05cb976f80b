"""The autoregressive prior (paper §2.2): from a caption to an image embedding, one principal component after another.

z_i is written as its principal components, each quantised into buckets. A causal transformer over [encoded caption, z_t,
dot product, component 1, component 2, …] says at z_t which bucket z_t·z_i falls into, and then each component's bucket.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.clip import TextEncoding
from models.networks.priors.diffusion import Block, Cache, causal, padded, prefix_caches

# A component's buckets are of equal width over so many standard deviations to either side. Equal width, not equal
# mass: the rare far values are those that tell one image from another, and quantiles would lump them together.
RANGE = 4.0

COLDEST = 1e-6  # a temperature below it counts as 0


@dataclass(frozen=True)
class AutoregressivePriorConfig:
    """Numbers of the prior. `components`: how many principal components are predicted, at most those that the checkpoint keeps."""

    embed_dim: int  # of z_t and z_i
    text_width: int  # of the text encoder's hidden states
    width: int
    layers: int
    heads: int
    components: int
    buckets: int = 256  # the paper has 1024
    context_length: int = 77
    unit_norm: bool = True  # z_t has unit norm, and is scaled to unit variance a dimension; else it is taken as it is


class AutoregressivePrior(nn.Module):
    """Caption, z_t and the tokens so far -> logits of the next one."""

    scales: Tensor
    dot_bounds: Tensor

    def __init__(self, config: AutoregressivePriorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.text_proj = nn.Linear(config.text_width, width)
        self.z_t_proj = nn.Linear(config.embed_dim, width)
        # The dot product's buckets come after the components' own.
        self.tokens = nn.Embedding(2 * config.buckets, width)
        # As small as the positions: torch's own standard deviation of 1 drowns them, and which component is asked for is half of
        # what there is to know. Measured on cached z_i, 250 steps: 4.33 nats a held-out token against 4.91.
        nn.init.normal_(self.tokens.weight, std=0.02)
        # Position p < context_length is the caption's; then z_t, the dot product and the components.
        self.positions = nn.Parameter(
            torch.randn(config.context_length + 1 + config.components, width) * 0.02
        )
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.layers))
        self.norm_out = nn.LayerNorm(width)
        self.out = nn.Linear(width, config.buckets)
        self.register_buffer(
            "scales", torch.ones(config.components)
        )  # standard deviation of each component
        self.register_buffer("dot_bounds", torch.tensor([-1.0, 1.0]))

    def quantize(self, coordinates: Tensor, dots: Tensor) -> Tensor:
        """Principal components `[B, K]` and dot products `[B]` -> buckets `[B, 1 + K]`, the dot product's first."""
        low, high = self.dot_bounds
        shares = torch.cat(
            (((dots - low) / (high - low))[:, None], (coordinates / self.scales / RANGE + 1) / 2),
            dim=1,
        )
        return (shares * self.config.buckets).floor().long().clamp(0, self.config.buckets - 1)

    def dequantize(self, buckets: Tensor) -> Tensor:
        """Components' buckets `[B, K]` -> the middles of them `[B, K]`."""
        return (((buckets + 0.5) / self.config.buckets) * 2 - 1) * RANGE * self.scales

    def forward(self, text: TextEncoding, buckets: Tensor) -> Tensor:
        """The encoded captions and all but the last bucket `[B, K]` -> logits `[B, 1 + K, buckets]`."""
        prefix, mask = self._prefix(text)
        x = torch.cat((prefix, self._embedded(buckets)), dim=1)
        keep = causal(F.pad(mask, (0, buckets.shape[1]), value=True))
        for block in self.blocks:
            x = block(x, keep)
        logits: Tensor = self.out(self.norm_out(x[:, -1 - buckets.shape[1] :]))
        return logits

    def begin(self, text: TextEncoding) -> tuple[Tensor, list[Cache]]:
        """The encoded captions -> logits of the dot product `[B, buckets]`, and each row's cache, without padding."""
        x, caches = prefix_caches(cast(list[Block], list(self.blocks)), *self._prefix(text))
        return self.out(self.norm_out(x[:, -1])), caches

    def proceed(
        self, caches: Sequence[Cache], last: Sequence[int], places: Sequence[int]
    ) -> tuple[Tensor, list[Cache]]:
        """Each row's cache, its last bucket and which it is (0: the dot product) -> logits of the next, and the longer caches.
        Rows may be at different places."""
        device = self.positions.device
        tokens = [
            bucket + (self.config.buckets if place == 0 else 0)
            for bucket, place in zip(last, places, strict=True)
        ]
        x = (
            self.tokens(torch.tensor(tokens, device=device))
            + self.positions[[self.config.context_length + 1 + place for place in places]]
        )
        x = x[:, None]
        layers, seen = padded(caches)
        keep = F.pad(seen, (0, 1), value=True)[:, None, None]
        longer: list[Cache] = [[] for _ in caches]
        for block, past in zip(cast(list[Block], list(self.blocks)), layers, strict=True):
            x, (k, v) = block.attended(x, keep, past)
            for row, cache in enumerate(longer):
                own = F.pad(seen[row], (0, 1), value=True)
                cache.append((k[row : row + 1, :, own], v[row : row + 1, :, own]))
        return self.out(self.norm_out(x[:, -1])), longer

    def _prefix(self, text: TextEncoding) -> tuple[Tensor, Tensor]:
        """Caption and z_t as `[B, L + 1, C]`, and the mask `[B, L + 1]`."""
        length = text.mask.shape[1]
        z_t = text.z_t * text.z_t.shape[1] ** 0.5 if self.config.unit_norm else text.z_t
        z_t = self.z_t_proj(z_t.to(self.positions.dtype))
        positions = torch.cat(
            (self.positions[:length], self.positions[self.config.context_length][None])
        )
        return torch.cat((self.text_proj(text.hidden), z_t[:, None]), dim=1) + positions, F.pad(
            text.mask, (0, 1), value=True
        )

    def _embedded(self, buckets: Tensor) -> Tensor:
        """Buckets `[B, N]` of the dot product and what follows, as `[B, N, C]`."""
        places = torch.arange(buckets.shape[1], device=buckets.device)
        tokens = buckets + self.config.buckets * (places == 0)
        embedded: Tensor = (
            self.tokens(tokens) + self.positions[self.config.context_length + 1 + places]
        )
        return embedded


def upper_half(logits: Tensor) -> Tensor:
    """Logits `[buckets]` with the lower half of the probability gone: for the dot product, drawn from the top half of its
    distribution (paper §2.2; 50 % was best everywhere). The bucket in which the middle falls stays."""
    above = (
        logits.softmax(0).flip(0).cumsum(0).flip(0)
    )  # the probability of this bucket and all above
    following = F.pad(above[1:], (0, 1))
    return logits.masked_fill(following >= 0.5, -torch.inf)


def nucleus(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """Logits `[buckets]` -> probabilities at a temperature, of the fewest buckets that hold `top_p` together (Holtzman et al. 2020).
    Temperature 0, and one so small that the logits overflow, is all on the likeliest."""
    if temperature < COLDEST:
        return F.one_hot(logits.argmax(), len(logits)).to(logits)
    probabilities = (logits / temperature).softmax(0)
    order = probabilities.argsort(descending=True)
    before = probabilities[order].cumsum(0) - probabilities[order]
    kept = torch.zeros_like(probabilities).scatter(0, order, (before < top_p).to(probabilities))
    probabilities = probabilities * kept
    return probabilities / probabilities.sum()
