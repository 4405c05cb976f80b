"""FLOPs that the exact prefix cache of both priors saves, counted on the meta device.

Measures the default checkpoint and larger priors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from models import UnCLIP
from models.checkpoints.karlo import DEFAULTS
from models.networks.priors.autoregressive import AutoregressivePrior, AutoregressivePriorConfig
from models.networks.priors.diffusion import DiffusionPrior, DiffusionPriorConfig

# Karlo's prior (20 layers, 32 heads of 64), and an autoregressive one of the paper's size (table 3,
# §2.2).
KARLO = DiffusionPriorConfig(
    embed_dim=768, text_width=768, width=2048, layers=20, heads=32, unit_norm=False
)
PAPER = AutoregressivePriorConfig(
    embed_dim=1024, text_width=2048, width=1664, layers=24, heads=26, components=319, buckets=1024
)
# The mean of the evaluation's captions of one object and of two, and CLIP's maximum.
TOKENS = (12, 77)
# Positions of the diffusion prior that change at every step: timestep, noised z_i, query.
POSITIONS_PER_STEP = 3

Prior = DiffusionPrior | AutoregressivePrior


@dataclass(frozen=True)
class Cost:
    """FLOPs of one embedding without guidance, which doubles both."""

    uncached: int
    cached: int

    @property
    def ratio(self) -> float:
        return self.uncached / self.cached


@dataclass(frozen=True)
class BlockCost:
    """FLOPs of a prior's blocks: of a position, and of a pair that attends to each other.

    The layers before and after the blocks need less than a hundredth of them, with and without a
    cache."""

    position: int
    pair: int

    @classmethod
    def measure(cls, prior: Prior) -> BlockCost:
        """Derive both from a single position, and from one after another."""
        single = count_flops(prior, 1, 0)
        pair = count_flops(prior, 1, 1) - single
        layers = len(prior.blocks)
        return cls(layers * (single - pair), layers * pair)

    def forward_pass(self, new: int, past: int) -> int:
        """Return the FLOPs of `new` positions after `past` with cached keys and values."""
        return new * self.position + new * (past + new) * self.pair


def count_flops(prior: Prior, new: int, past: int) -> int:
    """Return torch's count for one block: `new` positions after `past` cached ones."""
    width = prior.config.width
    heads = prior.config.heads
    with torch.device("meta"), torch.inference_mode():
        x = torch.empty(1, new, width)
        cache = torch.empty(1, heads, past, width // heads)
        mask = torch.ones(1, 1, new, past + new, dtype=torch.bool)
        with FlopCounterMode(display=False) as counter:
            prior.blocks[0].attend(x, mask, (cache, cache))
    return int(counter.get_total_flops())


def diffusion_cost(
    config: DiffusionPriorConfig, tokens: int, steps: int, candidates: int = 1
) -> Cost:
    """Return the cost for a caption of `tokens` tokens; candidates share the prefix."""
    with torch.device("meta"):
        blocks = BlockCost.measure(DiffusionPrior(config))
    prefix = tokens + 1
    passes = steps * candidates
    return Cost(
        passes * blocks.forward_pass(prefix + POSITIONS_PER_STEP, 0),
        blocks.forward_pass(prefix, 0) + passes * blocks.forward_pass(POSITIONS_PER_STEP, prefix),
    )


def autoregressive_cost(config: AutoregressivePriorConfig, tokens: int) -> Cost:
    """Return the cost for a caption of `tokens` tokens.

    The dot product's bucket and those of the components are sampled in sequence."""
    with torch.device("meta"):
        blocks = BlockCost.measure(AutoregressivePrior(config))
    prefix = tokens + 1
    first = blocks.forward_pass(prefix, 0)
    later = range(1, config.components + 1)
    return Cost(
        first + sum(blocks.forward_pass(prefix + k, 0) for k in later),
        first + sum(blocks.forward_pass(1, prefix + k - 1) for k in later),
    )


def measure_prefix_cache() -> dict[str, Any]:
    """Count the FLOPs of each prior at TOKENS, with and without the cache, and print a table."""
    pipeline = UnCLIP.load()
    defaults = pipeline.resolve()
    karlo_steps = int(str(DEFAULTS["prior_num_inference_steps"]))
    print("| prior | tokens | GFLOP without cache | GFLOP with cache | ratio |")
    print("| --- | --- | --- | --- | --- |")
    results = []
    for tokens in TOKENS:
        costs = {
            "diffusion, default checkpoint": diffusion_cost(
                pipeline.prior.config,
                tokens,
                defaults.prior_num_inference_steps,
                defaults.prior_num_candidates,
            ),
            "diffusion, Karlo's size": diffusion_cost(KARLO, tokens, karlo_steps),
            "autoregressive, the paper's size": autoregressive_cost(PAPER, tokens),
        }
        if pipeline.ar_prior is not None:
            costs["autoregressive, default checkpoint"] = autoregressive_cost(
                pipeline.ar_prior.config, tokens
            )
        for name, cost in costs.items():
            uncached = cost.uncached / 1e9
            cached = cost.cached / 1e9
            print(f"| {name} | {tokens} | {uncached:.3g} | {cached:.3g} | {cost.ratio:.1f} |")
            results.append(
                {"prior": name, "tokens": tokens, "gflop": uncached, "gflop_cached": cached}
            )
    return {"priors": results}
