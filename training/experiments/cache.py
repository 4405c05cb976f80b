"""What the exact prefix cache of both priors saves, in FLOPs, counted on the meta device: of this checkpoint's, and of larger ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from models.ar_prior import AutoregressivePrior, AutoregressivePriorConfig
from models.karlo import DEFAULTS
from models.prior import DiffusionPrior, PriorConfig
from training.experiments.bench import Bench
from training.figures import table
from training.ways import subjects

# Karlo's prior (20 layers, 32 heads of 64), and an autoregressive one of the paper's size (table 3, §2.2).
KARLO = PriorConfig(embed_dim=768, text_width=768, width=2048, layers=20, heads=32, unit_norm=False)
PAPER_AR = AutoregressivePriorConfig(embed_dim=1024, text_width=2048, width=1664, layers=24, heads=26, components=319, buckets=1024)
AFTER_PREFIX = 3  # positions of the diffusion prior that change from step to step: timestep, noised z_i, query


@dataclass(frozen=True)
class Cost:
    """FLOPs of one embedding's forward passes, without guidance, which doubles both."""

    whole: int
    cached: int

    @property
    def ratio(self) -> float:
        return self.whole / self.cached


def passes(prior: DiffusionPrior | AutoregressivePrior, new: int, past: int) -> int:
    """FLOPs of `new` positions through a prior's blocks, after `past` whose keys and values are kept. What is before and after the blocks
    is less than a hundredth of them and the same in both."""
    width, heads = prior.config.width, prior.config.heads
    with torch.device("meta"), torch.inference_mode():
        x, kept = torch.empty(1, new, width), torch.empty(1, heads, past, width // heads)
        keep = torch.ones(1, 1, new, past + new, dtype=torch.bool)
        with FlopCounterMode(display=False) as counter:
            prior.blocks[0].attended(x, keep, (kept, kept))  # type: ignore[operator]
    return len(prior.blocks) * int(counter.get_total_flops())


def diffusion_cost(config: PriorConfig, tokens: int, steps: int, candidates: int = 1) -> Cost:
    """Of a caption of so many tokens: candidates share the prefix too."""
    with torch.device("meta"):
        prior = DiffusionPrior(config)
    prefix = tokens + 1
    each = steps * candidates
    return Cost(each * passes(prior, prefix + AFTER_PREFIX, 0), passes(prior, prefix, 0) + each * passes(prior, AFTER_PREFIX, prefix))


def autoregressive_cost(config: AutoregressivePriorConfig, tokens: int) -> Cost:
    """Of a caption of so many tokens: the dot product's bucket and the components', one after another."""
    with torch.device("meta"):
        prior = AutoregressivePrior(config)
    prefix, later = tokens + 1, range(1, config.components + 1)
    first = passes(prior, prefix, 0)
    whole = first + sum(passes(prior, prefix + k, 0) for k in later)
    return Cost(whole, first + sum(passes(prior, 1, prefix + k - 1) for k in later))


def run(bench: Bench, count: int) -> str:
    """For a caption as long as `count` of one object and as many of two in relation are in the mean, and for the longest."""
    stack, defaults = bench.stack, bench.stack.resolve()
    steps, candidates = defaults.prior_num_inference_steps, defaults.prior_num_candidates
    rows = []
    clip, of = stack.clip, subjects(("one object", "two in relation"), count, bench.mix)
    usual = round(float((clip.tokenize(of.texts)[0] != 0).sum(1).double().mean()))
    for tokens in (usual, clip.network.context_length):
        cases = {
            f"diffusion, this checkpoint ({steps} steps, {candidates} candidates)": diffusion_cost(
                stack.prior.config, tokens, steps, candidates
            ),
            f"diffusion, Karlo's size ({DEFAULTS['prior_num_inference_steps']} steps)": diffusion_cost(
                KARLO, tokens, int(str(DEFAULTS["prior_num_inference_steps"]))
            ),
            f"autoregressive, the paper's size ({PAPER_AR.components} components)": autoregressive_cost(PAPER_AR, tokens),
        }
        if stack.ar_prior is not None:
            name = f"autoregressive, this checkpoint ({stack.ar_prior.config.components} components)"
            cases[name] = autoregressive_cost(stack.ar_prior.config, tokens)
        rows += [
            [name, str(tokens), f"{c.whole / 1e9:.3g}", f"{c.cached / 1e9:.3g}", f"{c.ratio:.1f}"] for name, c in sorted(cases.items())
        ]
    return "\n\n".join(
        [
            "The priors are causal, so what stands before the timestep (or before the next bucket) is the same at every step: its keys "
            "and values are computed once, which gives the same numbers (tests/models hold the one against the other). GFLOP of one "
            "embedding by `FlopCounterMode`, without guidance, which doubles all of them:",
            table(["prior", "tokens", "every position at every step", "prefix once", "times less"], rows),
        ]
    )
