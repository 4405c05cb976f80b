"""Quality against the decoder's evaluations, for each sampler, and what limits strong guidance.

*Right*: how many images of fresh captions show the things that were said. *Distance*: root mean square between an image and the one
that the probability-flow ODE leads to from the same noise, for samplers that solve it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from training.evaluation.figures import percent, plot_module, save, table
from training.evaluation.generation import Subjects, subjects
from training.evaluation.metrics import Estimate, share
from training.evaluation.scoring import judged
from training.experiments.harness import Bench, embedded

SORTS = ("one object", "two in relation")
EVALUATIONS = (4, 6, 8, 12, 16, 32)
# What the ODE leads to: the sampler that comes nearest to it, at four times the most evaluations compared.
REFERENCE: dict[str, Any] = {"sampler": "unipc", "decoder_num_inference_steps": 128}


@dataclass(frozen=True)
class Line:
    """One line of the plot: a sampler and what else is set."""

    name: str
    parameters: dict[str, Any]
    solves_ode: bool = False

    def at(self, evaluations: int) -> dict[str, Any]:
        """Its parameters for so many evaluations; Heun makes 2n - 1 in n steps."""
        steps = (evaluations + 1) // 2 if self.parameters["sampler"] == "heun" else evaluations
        return self.parameters | {"decoder_num_inference_steps": steps}


LINES = (
    Line("DDPM", {"sampler": "ddpm"}),
    Line("DDIM", {"sampler": "ddim"}, solves_ode=True),
    Line("DPM-Solver++ 2M", {"sampler": "dpm++"}, solves_ode=True),
    Line("UniPC", {"sampler": "unipc"}, solves_ode=True),
    Line("Heun", {"sampler": "heun"}, solves_ode=True),
)
# At a guidance that is felt, what limits it.
STRONG = {"sampler": "dpm++", "decoder_guidance_scale": 6.0, "decoder_num_inference_steps": 16}
GUIDED = (
    Line("guidance 6", STRONG),
    Line(
        "guidance 6, on steps 0.1 to 0.7",
        STRONG | {"decoder_guidance_start": 0.1, "decoder_guidance_stop": 0.7},
    ),
    Line("guidance 6, dynamic threshold 0.995", STRONG | {"dynamic_threshold": 0.995}),
)


@dataclass(frozen=True)
class Point:
    """What a line gave at so many evaluations."""

    right: Estimate
    distance: float


def run(bench: Bench, count: int) -> str:
    """On `count` captions of each sort, each from the same noise in every cell."""
    of = subjects(SORTS, count, bench.mix)
    exact = bench.draw(of.texts, of.seeds, **REFERENCE)
    found = {
        (line.name, n): point(bench, of, line.at(n), exact) for line in LINES for n in EVALUATIONS
    }
    limited = {line.name: point(bench, of, line.parameters, exact) for line in GUIDED}
    _plot(bench, found)
    heads = ["sampler", *map(str, EVALUATIONS)]
    rows = [
        [line.name, *(percent(found[line.name, n].right) for n in EVALUATIONS)] for line in LINES
    ]
    distances = [
        [line.name, *(f"{found[line.name, n].distance:.3f}" for n in EVALUATIONS)]
        for line in LINES
        if line.solves_ode
    ]
    return "\n\n".join(
        [
            f"{2 * count} captions, each from the same noise in every cell, at guidance {bench.pipeline.resolve().decoder_guidance_scale:g}. "
            "In per cent, what is right by the decoder's evaluations (a Heun step is two, its columns have one less); the ODE's own "
            f"images: {percent(_right(bench, of, exact))}.",
            table(heads, rows),
            f"Root mean square distance to the solution of the probability-flow ODE (UniPC with {REFERENCE['decoder_num_inference_steps']} "
            "evaluations), on a scale of -1 to 1:",
            table(heads, distances),
            embedded(
                "samplers.png",
                "Right images, and distance to the ODE's solution, against evaluations",
            ),
            judgement(found),
            "Strong guidance at 16 evaluations of DPM-Solver++ 2M: limited to an interval of the steps, which also saves the "
            "unconditional half outside, and with dynamic thresholding.",
            table(
                ["variant", "right, %"],
                [[name, percent(cell.right)] for name, cell in limited.items()],
            ),
        ]
    )


def point(bench: Bench, of: Subjects, parameters: dict[str, Any], exact: Tensor) -> Point:
    """One cell."""
    images = bench.draw(of.texts, of.seeds, **parameters)
    return Point(
        _right(bench, of, images), float((images - exact).square().flatten(1).mean(1).sqrt().mean())
    )


def judgement(found: dict[tuple[str, int], Point]) -> str:
    """Which solver is nearest at each number of evaluations, and from how many on the best sampler is right nine times for ten of its "
    "best."""
    nearest = {
        n: min(
            (line for line in LINES if line.solves_ode),
            key=lambda line: found[line.name, n].distance,
        ).name
        for n in EVALUATIONS
    }
    told = ", ".join(f"{name} at {n}" for n, name in nearest.items())
    best = max(point.right.value for point in found.values())
    enough = {
        line.name: next(
            (n for n in EVALUATIONS if found[line.name, n].right.value >= 0.9 * best), None
        )
        for line in LINES
    }
    few = ", ".join(
        f"{name} {n if n is not None else f'not by {EVALUATIONS[-1]}'}"
        for name, n in enough.items()
    )
    return f"- Nearest to the ODE: {told}.\n- Evaluations to nine tenths of the best cell's right images: {few}."


def _right(bench: Bench, of: Subjects, images: Tensor) -> Estimate:
    core = judged(bench.reader, images, of.captions)["core"]
    return share(sum(core), len(core))


def _plot(bench: Bench, found: dict[tuple[str, int], Point]) -> None:
    figure, (left, right) = plot_module().subplots(1, 2, figsize=(10, 4), layout="constrained")
    for line in LINES:
        left.plot(
            EVALUATIONS,
            [100 * found[line.name, n].right.value for n in EVALUATIONS],
            marker="o",
            markersize=3,
            label=line.name,
        )
        if line.solves_ode:
            right.plot(
                EVALUATIONS,
                [found[line.name, n].distance for n in EVALUATIONS],
                marker="o",
                markersize=3,
                label=line.name,
            )
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
    save(figure, bench.figure("samplers.png"))
