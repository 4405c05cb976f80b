"""Aesthetic quality and guidance (paper §5.4, Fig. 12): a linear probe on CLIP embeddings.

The paper's probe learned from people's ratings (AVA). There are none of synthetic scenes, so this
one learns from ratings by a rule. It shows that the method works. For people's ratings use `python
-m training.evaluation.aesthetics`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.evaluation.aesthetics import fit_and_test
from training.evaluation.figures import format_estimate, markdown_table
from training.evaluation.metrics import Estimate, estimate_mean, spearman
from training.evaluation.solids.generation import build_evaluation_set, embed, render_scenes
from training.experiments.harness import MODE_LABELS, Bench
from training.experiments.paper.guidance import MODES, SCALES, TYPES
from training.scenes.solids.scene import MIXES, draw_scene

RATINGS = 1024  # renderings
NOISE = 0.7  # standard deviation of an image's mean rating, in points
FIRST_INDEX = 1 << 25  # test scenes that no other experiment uses
MIN_CORRELATION = 0.1  # less is no dependence


@dataclass(frozen=True)
class ModeResult:
    """Ratings of a mode's images by guidance scale, and their rank correlations."""

    predicted: dict[float, Estimate]
    rule: dict[float, Estimate]
    rho: float  # of guidance scale and predicted rating
    rule_rho: float  # of guidance scale and the rule's rating
    agreement: float  # of both ratings


@dataclass(frozen=True)
class Result:
    """Results by mode, and the probe's test."""

    modes: dict[str, ModeResult]
    captions: int
    held_out: int
    pearson: float
    spearman: float


def colourfulness(images: Tensor) -> Tensor:
    """Return the colourfulness `[B]` of images `[B, 3, s, s]` in [-1, 1].

    As Hasler & Süsstrunk 2003 (eq. 5), on their scale, where 0 is grey."""
    red, green, blue = images.double().add(1).mul(127.5).flatten(2).unbind(1)
    rg = red - green
    yb = (red + green) / 2 - blue
    deviation = (rg.var(1) + yb.var(1)).sqrt()
    return deviation + 0.3 * (rg.mean(1).square() + yb.mean(1).square()).sqrt()


def rate(images: Tensor) -> Tensor:
    """Return ratings by rule `[B]`, 1 to 10: 1 and a point for every 12 of colourfulness."""
    return (1 + colourfulness(images) / 12).clamp(1, 10)


def measure(bench: Bench, count: int) -> Result:
    """Rate the images of the guidance experiment, `count` captions of each type."""
    scenes = [draw_scene(FIRST_INDEX + 2 * k, MIXES[bench.mix], "test") for k in range(RATINGS)]
    x = render_scenes(scenes)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(x), generator=generator, dtype=torch.float64) * NOISE
    fitted = fit_and_test(embed(bench.pipeline, x), rate(x) + noise)
    captions = build_evaluation_set(TYPES, count, bench.mix)
    modes = {}
    for mode in MODES:
        predicted = {}
        rule = {}
        for scale in SCALES:
            images = bench.generate(
                captions.texts, captions.seeds, mode, decoder_guidance_scale=scale
            )
            predicted[scale] = fitted.probe(embed(bench.pipeline, images))
            rule[scale] = rate(images)
        scales = torch.tensor(SCALES).repeat_interleave(len(captions.texts))
        all_predicted = torch.cat(list(predicted.values()))
        all_rule = torch.cat(list(rule.values()))
        modes[mode] = ModeResult(
            {scale: estimate_mean(values) for scale, values in predicted.items()},
            {scale: estimate_mean(values) for scale, values in rule.items()},
            spearman(scales, all_predicted),
            spearman(scales, all_rule),
            spearman(all_predicted, all_rule),
        )
    return Result(modes, len(captions.texts), fitted.held_out, fitted.pearson, fitted.spearman)


def report(result: Result) -> str:
    """Return the part of the page."""
    rows = [
        [
            MODE_LABELS[mode],
            f"{scale:g}",
            format_estimate(values.predicted[scale], 2),
            format_estimate(values.rule[scale], 2),
        ]
        for mode, values in result.modes.items()
        for scale in values.predicted
    ]
    return "\n\n".join(
        [
            f"**No people rated these.** {RATINGS} renderings have a synthetic rating of 1 to 10: "
            f"their colourfulness (Hasler & Süsstrunk 2003), with noise of {NOISE} points to "
            "imitate different raters. A ridge regression on z_i predicts it for "
            f"{result.held_out} held-out renderings with Pearson {result.pearson:.2f} and "
            f"Spearman {result.spearman:.2f}. On images of {result.captions} captions:",
            markdown_table(["mode", "guidance", "predicted rating", "rating by the rule"], rows),
            "\n".join(judge(mode, values) for mode, values in result.modes.items()),
            "A file of people's ratings in AVA's format replaces the rule: `python -m "
            "training.evaluation.aesthetics ratings.csv --rate FOLDER`.",
        ]
    )


def judge(mode: str, result: ModeResult) -> str:
    """Return whether a mode's rating rises with guidance, as in the paper."""
    if result.rho > MIN_CORRELATION:
        direction = "rises with"
    elif result.rho < -MIN_CORRELATION:
        direction = "falls with"
    else:
        direction = "hardly depends on"
    opening = "As in the paper" if result.rho > MIN_CORRELATION else "Not as in the paper"
    return (
        f"- **{opening}**, where it rises for both: with {MODE_LABELS[mode]} the predicted rating "
        f"{direction} guidance (Spearman {result.rho:.2f}; the rule {result.rule_rho:.2f}). On "
        f"these samples the probe agrees with the rule at {result.agreement:.2f}."
    )
