"""FLOPs of the priors' prefix cache."""

from __future__ import annotations

import torch

from benchmarks.models.prefix_cache import BlockCost, count_flops, diffusion_cost
from models.networks.priors.diffusion import DiffusionPrior, DiffusionPriorConfig

CONFIG = DiffusionPriorConfig(embed_dim=16, text_width=16, width=16, layers=1, heads=2)


def test_the_cache_saves_most_of_the_diffusion_priors_work() -> None:
    """Of 81 positions three are computed at each step, and 78 once.

    With five steps of one candidate that is slightly more than a fifth."""
    cost = diffusion_cost(CONFIG, 77, 5)
    assert (78 + 5 * 3) / (5 * 81) * 0.9 < cost.cached / cost.uncached < 0.4


def test_costs_of_blocks_are_those_that_torch_counts() -> None:
    """Both numbers of a block give the cost of any forward pass."""
    with torch.device("meta"):
        prior = DiffusionPrior(CONFIG)
    blocks = BlockCost.measure(prior)
    assert blocks.forward_pass(7, 5) == CONFIG.layers * count_flops(prior, 7, 5)
