"""Quality against the decoder's evaluations, for each sampler, and limits of strong guidance.

*Right* is the share of images that show their caption's objects. *Distance* is the root mean square
between an image and the one that the probability-flow ODE leads to from the same noise, for
samplers that solve it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from training.evaluation.figures import format_percent, load_pyplot, markdown_table, save_figure
from training.evaluation.metrics import Estimate, estimate_share
from training.evaluation.solids.generation import EvaluationSet, build_evaluation_set
from training.evaluation.solids.scoring import score
from training.experiments.harness import Bench, format_figure

TYPES = ("one object", "two in relation")
EVALUATIONS = (4, 6, 8, 12, 16, 32)
# The ODE's solution: the most exact sampler, at four times the most evaluations compared.
REFERENCE: dict[str, Any] = {"sampler": "unipc", "decoder_num_inference_steps": 128}


@dataclass(frozen=True)
class Variant:
    """A sampler and its other parameters: one line of the plot."""

    name: str
    parameters: dict[str, Any]
    solves_ode: bool = False

    def with_evaluations(self, evaluations: int) -> dict[str, Any]:
        """Return the parameters for a number of evaluations. Heun makes 2n - 1 in n steps."""
        steps = (evaluations + 1) // 2 if self.parameters["sampler"] == "heun" else evaluations
        return self.parameters | {"decoder_num_inference_steps": steps}


VARIANTS = (
    Variant("DDPM", {"sampler": "ddpm"}),
    Variant("DDIM", {"sampler": "ddim"}, solves_ode=True),
    Variant("DPM-Solver++ 2M", {"sampler": "dpm++"}, solves_ode=True),
    Variant("UniPC", {"sampler": "unipc"}, solves_ode=True),
    Variant("Heun", {"sampler": "heun"}, solves_ode=True),
)
# Limits of guidance, at a scale that needs them.
STRONG = {"sampler": "dpm++", "decoder_guidance_scale": 6.0, "decoder_num_inference_steps": 16}
GUIDED = (
    Variant("guidance 6", STRONG),
    Variant(
        "guidance 6, on steps 0.1 to 0.7",
        STRONG | {"decoder_guidance_start": 0.1, "decoder_guidance_stop": 0.7},
    ),
    Variant("guidance 6, dynamic threshold 0.995", STRONG | {"dynamic_threshold": 0.995}),
)


@dataclass(frozen=True)
class Point:
    """Results of a variant at a number of evaluations."""

    right: Estimate
    distance: float


@dataclass(frozen=True)
class Result:
    """Points by variant and number of evaluations, and strong guidance by variant."""

    count: int  # captions
    guidance: float
    exact: Estimate  # right images of the ODE's solution
    points: dict[tuple[str, int], Point]
    guided: dict[str, Point]


def measure(bench: Bench, count: int) -> Result:
    """Measure `count` captions of each type, each from the same noise for every variant."""
    captions = build_evaluation_set(TYPES, count, bench.mix)
    exact = bench.generate(captions.texts, captions.seeds, **REFERENCE)
    points = {
        (variant.name, n): _measure(bench, captions, variant.with_evaluations(n), exact)
        for variant in VARIANTS
        for n in EVALUATIONS
    }
    guided = {
        variant.name: _measure(bench, captions, variant.parameters, exact) for variant in GUIDED
    }
    _plot(bench, points)
    return Result(
        len(captions.texts),
        float(bench.pipeline.resolve().decoder_guidance_scale),
        _share_right(bench, captions, exact),
        points,
        guided,
    )


def report(result: Result) -> str:
    """Return the part of the page."""
    heads = ["sampler", *map(str, EVALUATIONS)]
    shares = [
        [variant.name, *(format_percent(result.points[variant.name, n].right) for n in EVALUATIONS)]
        for variant in VARIANTS
    ]
    distances = [
        [variant.name, *(f"{result.points[variant.name, n].distance:.3f}" for n in EVALUATIONS)]
        for variant in VARIANTS
        if variant.solves_ode
    ]
    guided = [[name, format_percent(point.right)] for name, point in result.guided.items()]
    return "\n\n".join(
        [
            f"{result.count} captions, each from the same noise in every cell, at guidance "
            f"{result.guidance:g}. The figures are the per cent right, by the decoder's "
            "evaluations. A Heun step is two evaluations; its columns have one less. The ODE's "
            f"images have {format_percent(result.exact)}.",
            markdown_table(heads, shares),
            "Root mean square distance to the solution of the probability-flow ODE (UniPC with "
            f"{REFERENCE['decoder_num_inference_steps']} evaluations), on a scale of -1 to 1:",
            markdown_table(heads, distances),
            format_figure(
                "samplers.png",
                "Right images, and distance to the ODE's solution, against evaluations",
            ),
            summarize(result.points),
            "Strong guidance at 16 evaluations of DPM-Solver++ 2M: limited to an interval of the "
            "steps, which saves the unconditional half elsewhere, and with dynamic thresholding.",
            markdown_table(["variant", "right, %"], guided),
        ]
    )


def summarize(points: dict[tuple[str, int], Point]) -> str:
    """Return which solver is most exact, and how many evaluations each sampler needs.

    Enough are those with nine tenths of the right images of the best cell."""
    solvers = [variant.name for variant in VARIANTS if variant.solves_ode]
    closest = (
        f"{min(solvers, key=lambda name: points[name, n].distance)} at {n}" for n in EVALUATIONS
    )
    best = max(point.right.value for point in points.values())
    enough = []
    for variant in VARIANTS:
        reached = [n for n in EVALUATIONS if points[variant.name, n].right.value >= 0.9 * best]
        needed = str(reached[0]) if reached else f"more than {EVALUATIONS[-1]}"
        enough.append(f"{variant.name} {needed}")
    return (
        f"- Closest to the ODE: {', '.join(closest)}.\n"
        f"- Evaluations to nine tenths of the best cell's right images: {', '.join(enough)}."
    )


def _measure(
    bench: Bench, captions: EvaluationSet, parameters: dict[str, Any], exact: Tensor
) -> Point:
    images = bench.generate(captions.texts, captions.seeds, **parameters)
    distances = (images - exact).square().flatten(1).mean(1).sqrt()
    return Point(_share_right(bench, captions, images), float(distances.mean()))


def _share_right(bench: Bench, captions: EvaluationSet, images: Tensor) -> Estimate:
    core = score(bench.classifier, images, captions.captions)["core"]
    return estimate_share(sum(core), len(core))


def _plot(bench: Bench, points: dict[tuple[str, int], Point]) -> None:
    figure, (left, right) = load_pyplot().subplots(1, 2, figsize=(10, 4), layout="constrained")
    for variant in VARIANTS:
        cells = [points[variant.name, n] for n in EVALUATIONS]
        style = {"marker": "o", "markersize": 3, "label": variant.name}
        left.plot(EVALUATIONS, [100 * cell.right.value for cell in cells], **style)
        if variant.solves_ode:
            right.plot(EVALUATIONS, [cell.distance for cell in cells], **style)
    left.set(xscale="log", xlabel="evaluations of the decoder", ylabel="right, %")
    right.set(
        xscale="log",
        yscale="log",
        xlabel="evaluations of the decoder",
        ylabel="distance to the ODE's solution",
    )
    for axes in (left, right):
        axes.set_xticks(EVALUATIONS, [str(n) for n in EVALUATIONS])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    save_figure(figure, bench.figure("samplers.png"))
