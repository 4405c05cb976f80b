"""What the exact prefix cache of both priors saves, in FLOPs, counted on the meta device: of this checkpoint's, and of larger ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from models.checkpoints.karlo import DEFAULTS
from models.networks.ar_prior import AutoregressivePrior, AutoregressivePriorConfig
from models.networks.prior import DiffusionPrior, PriorConfig
from training.evaluation.figures import table
from training.evaluation.generation import subjects
from training.experiments.harness import Bench

# Karlo's prior (20 layers, 32 heads of 64), and an autoregressive one of the paper's size (table 3, §2.2).
KARLO = PriorConfig(embed_dim=768, text_width=768, width=2048, layers=20, heads=32, unit_norm=False)
PAPER_AR = AutoregressivePriorConfig(
    embed_dim=1024, text_width=2048, width=1664, layers=24, heads=26, components=319, buckets=1024
)
AFTER_PREFIX = (
    3  # positions of the diffusion prior that change from step to step: timestep, noised z_i, query
)


@dataclass(frozen=True)
class Cost:
    """FLOPs of one embedding's forward passes, without guidance, which doubles both."""

    whole: int
    cached: int

    @property
    def ratio(self) -> float:
        return self.whole / self.cached


def counted(prior: DiffusionPrior | AutoregressivePrior, new: int, past: int) -> int:
    """FLOPs of `new` positions through one of a prior's blocks, after `past` whose keys and values are kept, as torch counts them."""
    width = prior.config.width
    heads = prior.config.heads
    with torch.device("meta"), torch.inference_mode():
        x = torch.empty(1, new, width)
        kept = torch.empty(1, heads, past, width // heads)
        keep = torch.ones(1, 1, new, past + new, dtype=torch.bool)
        with FlopCounterMode(display=False) as counter:
            prior.blocks[0].attended(x, keep, (kept, kept))  # type: ignore[operator]
    return int(counter.get_total_flops())


@dataclass(frozen=True)
class Blocks:
    """A prior's blocks: FLOPs of a position, and of a pair of positions of which one attends to the other. What is before and after the
    blocks is less than a hundredth of them and the same with and without a cache."""

    position: int
    pair: int

    @classmethod
    def of(cls, prior: DiffusionPrior | AutoregressivePrior) -> Blocks:
        """From a position that is alone, and from one after another."""
        alone = counted(prior, 1, 0)
        second = counted(prior, 1, 1)
        layers = len(prior.blocks)
        pair = second - alone
        return cls(layers * (alone - pair), layers * pair)

    def passes(self, new: int, past: int) -> int:
        """FLOPs of `new` positions after `past` whose keys and values are kept."""
        return new * self.position + new * (past + new) * self.pair


def diffusion_cost(config: PriorConfig, tokens: int, steps: int, candidates: int = 1) -> Cost:
    """Of a caption of so many tokens: candidates share the prefix too."""
    with torch.device("meta"):
        blocks = Blocks.of(DiffusionPrior(config))
    prefix = tokens + 1
    each = steps * candidates
    whole = each * blocks.passes(prefix + AFTER_PREFIX, 0)
    return Cost(whole, blocks.passes(prefix, 0) + each * blocks.passes(AFTER_PREFIX, prefix))


def autoregressive_cost(config: AutoregressivePriorConfig, tokens: int) -> Cost:
    """Of a caption of so many tokens: the dot product's bucket and the components', one after another."""
    with torch.device("meta"):
        blocks = Blocks.of(AutoregressivePrior(config))
    prefix = tokens + 1
    later = range(1, config.components + 1)
    first = blocks.passes(prefix, 0)
    whole = first + sum(blocks.passes(prefix + k, 0) for k in later)
    return Cost(whole, first + sum(blocks.passes(1, prefix + k - 1) for k in later))


def run(bench: Bench, count: int) -> str:
    """For a caption as long as `count` of one object and as many of two in relation are in the mean, and for the longest."""
    pipeline = bench.pipeline
    defaults = bench.pipeline.resolve()
    steps = defaults.prior_num_inference_steps
    candidates = defaults.prior_num_candidates
    rows = []
    clip = pipeline.clip
    of = subjects(("one object", "two in relation"), count, bench.mix)
    usual = round(float((clip.tokenize(of.texts)[0] != 0).sum(1).double().mean()))
    for tokens in (usual, clip.network.context_length):
        cases = {
            f"diffusion, this checkpoint ({steps} steps, {candidates} candidates)": diffusion_cost(
                pipeline.prior.config, tokens, steps, candidates
            ),
            f"diffusion, Karlo's size ({DEFAULTS['prior_num_inference_steps']} steps)": diffusion_cost(
                KARLO, tokens, int(str(DEFAULTS["prior_num_inference_steps"]))
            ),
            f"autoregressive, the paper's size ({PAPER_AR.components} components)": autoregressive_cost(
                PAPER_AR, tokens
            ),
        }
        if pipeline.ar_prior is not None:
            name = f"autoregressive, this checkpoint ({pipeline.ar_prior.config.components} components)"
            cases[name] = autoregressive_cost(pipeline.ar_prior.config, tokens)
        rows += [
            [name, str(tokens), f"{c.whole / 1e9:.3g}", f"{c.cached / 1e9:.3g}", f"{c.ratio:.1f}"]
            for name, c in sorted(cases.items())
        ]
    return "\n\n".join(
        [
            "The priors are causal, so what stands before the timestep (or before the next bucket) is the same at every step: its keys "
            "and values are computed once, which gives the same numbers (tests/models hold the one against the other). GFLOP of one "
            "embedding by `FlopCounterMode`, without guidance, which doubles all of them:",
            table(
                ["prior", "tokens", "every position at every step", "prefix once", "times less"],
                rows,
            ),
        ]
    )
