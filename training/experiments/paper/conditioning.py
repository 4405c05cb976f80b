"""Why a prior (paper §5.1): the decoder with the prior's z_i, with z_t, and without either."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.evaluation.figures import (
    format_estimate,
    format_percent,
    markdown_table,
    save_sheet,
    wrap,
)
from training.evaluation.metrics import (
    Estimate,
    clip_score,
    estimate_share,
    frechet_distance,
    mmd,
)
from training.evaluation.solids.generation import (
    CONDITIONING_MODES,
    RENDERINGS,
    build_evaluation_set,
    embed,
    embed_references,
    embed_text,
)
from training.evaluation.solids.scoring import score
from training.experiments.harness import (
    MODE_LABELS,
    Bench,
    format_figure,
    format_verdict,
    is_below,
)

TYPES = ("one object", "two in relation", "compositional split")
# Sets of images are compared without the compositional ones: training has no such set.
COMPARED = TYPES[:2]
PAPER = {"prior": "7.99", "z_t": "16.55", "text": "9.16"}  # FID of small models, §5.1
REFERENCES = 1024  # renderings of each type
SHEET_COLUMNS = 6


@dataclass(frozen=True)
class ModeResult:
    """Results of one conditioning mode, or of renderings."""

    right: Estimate  # over all types
    right_by_type: tuple[Estimate, ...]  # in the order of TYPES
    clip_score: Estimate
    distance: Estimate  # Fréchet
    mmd: Estimate


@dataclass(frozen=True)
class Result:
    """Results by mode, and the number of reference renderings."""

    modes: dict[str, ModeResult]
    references: int


def measure(bench: Bench, count: int) -> Result:
    """Measure `count` captions of each type, in each mode."""
    captions = build_evaluation_set(TYPES, count, bench.mix)
    z_t = embed_text(bench.pipeline, captions.texts)
    references = embed_references(bench.pipeline, COMPARED, max(REFERENCES, 2 * count), bench.mix)
    images = {
        mode: bench.generate(captions.texts, captions.seeds, mode) for mode in CONDITIONING_MODES
    } | {RENDERINGS: captions.render()}
    results = {}
    for mode, mode_images in images.items():
        core = score(bench.classifier, mode_images, captions.captions)["core"]
        z_i = embed(bench.pipeline, mode_images)
        compared = z_i[: count * len(COMPARED)]
        parts = (core[k * count : (k + 1) * count] for k in range(len(TYPES)))
        results[mode] = ModeResult(
            estimate_share(sum(core), len(core)),
            tuple(estimate_share(sum(part), count) for part in parts),
            clip_score(z_i, z_t),
            frechet_distance(compared, references),
            mmd(compared, references),
        )
    _save_sheet(bench, images, captions.texts, count)
    return Result(results, len(references))


def report(result: Result) -> str:
    """Return the part of the page."""
    rows = [
        [
            MODE_LABELS[mode],
            *map(format_percent, values.right_by_type),
            format_estimate(values.clip_score, 3),
            format_estimate(values.distance, 2, 100),
            format_estimate(values.mmd, 2, 100),
            PAPER.get(mode, ""),
        ]
        for mode, values in result.modes.items()
    ]
    heads = [
        "input of the decoder",
        *(f"right, %: {name}" for name in TYPES),
        "CLIP score",
        "Fréchet × 100",
        "MMD × 100",
        "paper's FID",
    ]
    return "\n\n".join(
        [
            "Training withheld z_i from a tenth of the decoder's images, so the decoder works "
            "without it. z_t is in the same space as z_i, so it can replace it. Neither needs "
            "another training run (the paper trained its text decoder as one). The CLIP score is "
            "the cosine of image and caption. Fréchet distance and MMD compare CLIP's embeddings "
            f"of images and of {result.references} other renderings of one or two objects.",
            markdown_table(heads, rows),
            format_figure(
                "conditioning.jpg", "The same captions and seeds in each mode, above the renderings"
            ),
            "\n".join(judge(result.modes)),
        ]
    )


def judge(modes: dict[str, ModeResult]) -> list[str]:
    """Return whether the paper's order of the modes holds."""
    prior, z_t, text = (modes[mode] for mode in ("prior", "z_t", "text"))
    right = {mode: f"{100 * modes[mode].right.value:.0f} %" for mode in modes}
    comparison = {
        True: "fewer than through the prior. The decoder learns part of a caption from z_i only.",
        False: "more than through the prior. The decoder reads the caption better than z_i.",
        None: "as many as through the prior, within the intervals.",
    }[is_below(text.right, prior.right)]
    return [
        format_verdict(
            is_below(prior.distance, text.distance),
            "images by the prior are closer to the renderings than those from text only.",
        ),
        format_verdict(
            is_below(prior.distance, z_t.distance), "they are closer than those with z_t as z_i."
        ),
        format_verdict(
            is_below(text.distance, z_t.distance), "text only is closer than z_t as z_i."
        ),
        format_verdict(
            is_below(z_t.right, prior.right),
            f"captions are followed better through the prior ({right['prior']} right) than with "
            f"z_t as z_i ({right['z_t']}).",
        ),
        f"- Text only has {right['text']} right, {comparison}",
    ]


def _save_sheet(bench: Bench, images: dict[str, Tensor], texts: list[str], count: int) -> None:
    """Save a few images of each compared type."""
    few = min(SHEET_COLUMNS // 2, count)
    indices = [k * count + n for k in range(len(COMPARED)) for n in range(few)]
    save_sheet(
        [mode_images[torch.tensor(indices)] for mode_images in images.values()],
        bench.figure("conditioning.jpg"),
        left=[MODE_LABELS[mode] for mode in images],
        above=[wrap(texts[k]) for k in indices],
    )
