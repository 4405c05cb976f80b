"""The autoregressive against the diffusion prior (paper §5.1 and §5.2)."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.evaluation.figures import format_estimate, format_percent, markdown_table
from training.evaluation.metrics import (
    Estimate,
    estimate_mean,
    estimate_share,
    frechet_distance,
    mmd,
)
from training.evaluation.solids.generation import (
    BATCH,
    EvaluationSet,
    build_evaluation_set,
    embed,
    embed_references,
    embed_text,
    encode_conditioning,
    stack_embeddings,
)
from training.evaluation.solids.scoring import score
from training.experiments.harness import Bench, format_verdict, is_below

TYPES = ("one object", "two in relation")
REFERENCES = 1024  # renderings of each type


@dataclass(frozen=True)
class EmbeddingResult:
    """Embeddings compared to those of renderings."""

    cosine: Estimate  # to the z_i of the caption's own scene
    distance: Estimate  # Fréchet
    mmd: Estimate


@dataclass(frozen=True)
class PriorResult:
    """A prior's embeddings, and the images of them."""

    embeddings: EmbeddingResult
    right: Estimate  # over all types
    right_by_type: tuple[Estimate, ...]  # in the order of TYPES
    ms: float  # for one embedding


@dataclass(frozen=True)
class Result:
    """Results by prior, and of other embeddings by name."""

    priors: dict[str, PriorResult]
    others: dict[str, EmbeddingResult]
    references: int
    diffusion_steps: int
    diffusion_candidates: int
    components: int
    buckets: int


def measure(bench: Bench, count: int) -> Result | None:
    """Measure `count` captions of each type. None if the checkpoint has one prior only."""
    pipeline = bench.pipeline
    if pipeline.ar_prior is None:
        return None
    captions = build_evaluation_set(TYPES, count, bench.mix)
    references = embed_references(pipeline, TYPES, max(REFERENCES, 2 * count), bench.mix)
    z_i = embed(pipeline, captions.render())
    priors = {}
    for prior in pipeline.priors:
        embeddings, seconds = _sample(bench, captions, prior)
        images = bench.generate(captions.texts, captions.seeds, prior=prior)
        core = score(bench.classifier, images, captions.captions)["core"]
        parts = (core[k * count : (k + 1) * count] for k in range(len(TYPES)))
        priors[prior] = PriorResult(
            _compare(embeddings, z_i, references),
            estimate_share(sum(core), len(core)),
            tuple(estimate_share(sum(part), count) for part in parts),
            1000 * seconds / len(embeddings),
        )
    z_t = embed_text(pipeline, captions.texts)
    defaults = pipeline.resolve()
    return Result(
        priors,
        {
            "z_t itself": _compare(z_t, z_i, references),
            "z_i of the renderings": _compare(z_i, z_i, references),
        },
        len(references),
        defaults.prior_num_inference_steps,
        defaults.prior_num_candidates,
        pipeline.ar_prior.config.components,
        pipeline.ar_prior.config.buckets,
    )


def report(result: Result | None) -> str:
    """Return the part of the page."""
    if result is None:
        return "The checkpoint has no autoregressive prior."
    rows = [
        [
            name,
            *map(format_percent, prior.right_by_type),
            *_format_embeddings(prior.embeddings),
            f"{prior.ms:.1f}",
        ]
        for name, prior in result.priors.items()
    ]
    rows += [
        [name, *[""] * len(TYPES), *_format_embeddings(embeddings), ""]
        for name, embeddings in result.others.items()
    ]
    heads = [
        "z_i from",
        *(f"right, %: {name}" for name in TYPES),
        "cosine to the scene's z_i",
        "Fréchet × 100",
        "MMD × 100",
        "ms each",
    ]
    return "\n\n".join(
        [
            f"Both priors on the same captions and seeds, in batches of {BATCH}. The diffusion "
            f"prior takes {result.diffusion_steps} steps and the best of "
            f"{result.diffusion_candidates} candidates. The autoregressive one has "
            f"{result.components} components of {result.buckets} buckets. Fréchet distance and "
            f"MMD compare the embeddings with those of {result.references} other renderings. A "
            "caption leaves much open, so the cosine to its scene's z_i cannot be 1.",
            markdown_table(heads, rows),
            "\n".join(judge(result.priors)),
        ]
    )


def judge(priors: dict[str, PriorResult]) -> list[str]:
    """Return whether the diffusion prior is better, as in the paper."""
    diffusion = priors["diffusion"]
    autoregressive = priors["autoregressive"]
    return [
        format_verdict(
            is_below(diffusion.embeddings.distance, autoregressive.embeddings.distance),
            "the diffusion prior's embeddings are closer to those of renderings than the "
            "autoregressive one's.",
        ),
        format_verdict(
            is_below(autoregressive.right, diffusion.right), "more of its images are right."
        ),
        format_verdict(
            is_below(autoregressive.embeddings.cosine, diffusion.embeddings.cosine),
            "its z_i is closer to that of the scene.",
        ),
        "- The paper compares them at equal size, and by people: it prefers the diffusion prior, "
        "at less compute.",
    ]


def _sample(bench: Bench, captions: EvaluationSet, prior: str) -> tuple[Tensor, float]:
    """Return a prior's z_i `[N, D]` on the CPU, and the seconds that they took."""
    parameters = bench.pipeline.resolve(size=64, prior=prior)
    parts = []
    seconds = 0.0
    for start in range(0, len(captions.texts), BATCH):
        part = slice(start, start + BATCH)
        started = time.perf_counter()
        rows = encode_conditioning(
            bench.pipeline, "prior", captions.texts[part], captions.seeds[part], parameters
        )
        seconds += time.perf_counter() - started
        parts.append(stack_embeddings(rows).cpu())
    return torch.cat(parts), seconds


def _compare(embeddings: Tensor, z_i: Tensor, references: Tensor) -> EmbeddingResult:
    return EmbeddingResult(
        estimate_mean(F.cosine_similarity(embeddings, z_i)),
        frechet_distance(embeddings, references),
        mmd(embeddings, references),
    )


def _format_embeddings(result: EmbeddingResult) -> list[str]:
    return [
        format_estimate(result.cosine, 3),
        format_estimate(result.distance, 2, 100),
        format_estimate(result.mmd, 2, 100),
    ]
