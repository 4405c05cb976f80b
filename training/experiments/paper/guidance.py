"""Diversity against fidelity at growing guidance of the decoder (paper §5.3, Fig. 9 and 10).

unCLIP is compared to the decoder on text alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from training.evaluation.figures import (
    format_estimate,
    format_percent,
    load_pyplot,
    markdown_table,
    save_figure,
    save_sheet,
)
from training.evaluation.metrics import (
    Estimate,
    effective_number,
    estimate_mean,
    estimate_share,
    frechet_distance,
    spreads,
)
from training.evaluation.solids.generation import (
    EvaluationSet,
    build_evaluation_set,
    embed,
    embed_references,
    find_scenes,
    render_scenes,
    sample_plain_captions,
)
from training.evaluation.solids.scoring import score
from training.experiments.harness import (
    MODE_LABELS,
    Bench,
    format_figure,
    format_verdict,
    is_below,
    is_positive,
)
from training.scenes.solids.scene import PLACES

SCALES = (1.0, 1.5, 2.0, 3.0, 4.0)
MODES = ("prior", "text")
TYPES = ("one object", "two in relation")
IMAGES_PER_CAPTION = 8  # for diversity
REFERENCES = 1024  # renderings of each type
STRIP_SEEDS = 2


@dataclass(frozen=True)
class Cell:
    """Results of one mode at one guidance scale, or of renderings."""

    right: Estimate
    distance: Estimate  # Fréchet
    spreads: Tensor  # of each plain caption
    places: float  # effective number


@dataclass(frozen=True)
class Result:
    """Cells by mode and guidance scale, and the renderings' cell."""

    cells: dict[tuple[str, float], Cell]
    renderings: Cell
    captions: int
    plain: list[tuple[str, str]]


def measure(bench: Bench, count: int) -> Result:
    """Measure `count` captions of each type for fidelity, and plain ones for diversity.

    There are a quarter as many plain captions, with IMAGES_PER_CAPTION images each."""
    captions = build_evaluation_set(TYPES, count, bench.mix)
    plain = sample_plain_captions(max(2, count // 4))
    references = embed_references(bench.pipeline, TYPES, max(REFERENCES, 2 * count), bench.mix)
    texts = [f"a {colour} {shape}" for colour, shape in plain for _ in range(IMAGES_PER_CAPTION)]
    cells = {}
    for mode in MODES:
        for scale in SCALES:
            images = bench.generate(
                captions.texts, captions.seeds, mode, decoder_guidance_scale=scale
            )
            repeated = bench.generate(texts, range(len(texts)), mode, decoder_guidance_scale=scale)
            cells[mode, scale] = _measure(bench, captions, images, repeated, references)
    scenes = [
        scene
        for colour, shape in plain
        for scene in find_scenes(colour, shape, IMAGES_PER_CAPTION, bench.mix)
    ]
    renderings = _measure(bench, captions, captions.render(), render_scenes(scenes), references)
    _plot(cells, renderings, bench)
    _save_strip(bench, plain[0])
    return Result(cells, renderings, len(captions.texts), plain)


def report(result: Result) -> str:
    """Return the part of the page."""
    rows = [
        [MODE_LABELS[mode], f"{scale:g}", *_format_cell(cell)]
        for (mode, scale), cell in result.cells.items()
    ]
    rows.append(["renderings", "", *_format_cell(result.renderings)])
    return "\n\n".join(
        [
            f"Fidelity uses {result.captions} captions. Diversity uses {len(result.plain)} "
            f"captions that leave all but colour and shape open, with {IMAGES_PER_CAPTION} images "
            "each: the mean of 1 - cosine of two images' z_i, and the effective number of places "
            f"(of {len(PLACES)}).",
            markdown_table(
                ["mode", "guidance", "right, %", "Fréchet × 100", "spread", "places"], rows
            ),
            format_figure(
                "guidance.png", "Right images, Fréchet distance and spread against guidance"
            ),
            f"The same noise at guidance {', '.join(f'{scale:g}' for scale in SCALES)} (as in the "
            f'paper\'s Fig. 9), for "a {" ".join(result.plain[0])}". Each pair of rows has one '
            "z_i: unCLIP above, text only below.",
            format_figure("guidance.jpg", "Images at increasing guidance"),
            "\n".join(judge(result.cells)),
        ]
    )


def judge(cells: dict[tuple[str, float], Cell]) -> list[str]:
    """Return whether the paper's claims on Fig. 9 and 10 hold. Spreads are paired by caption."""
    first = SCALES[0]
    last = SCALES[-1]
    guided = SCALES[1:]
    change = {mode: cells[mode, last].spreads - cells[mode, first].spreads for mode in MODES}
    difference = torch.stack(
        [cells["prior", scale].spreads - cells["text", scale].spreads for scale in guided]
    ).mean(0)
    lost = {
        mode: _subtract(cells[mode, last].distance, cells[mode, first].distance) for mode in MODES
    }
    return [
        format_verdict(
            is_positive(estimate_mean(change["prior"] - change["text"])),
            f"guidance {last:g} costs unCLIP less of its diversity: from guidance {first:g} on "
            f"its spread changes by {format_estimate(estimate_mean(change['prior']), 3)}, that of "
            f"text only by {format_estimate(estimate_mean(change['text']), 3)}.",
        ),
        format_verdict(
            is_positive(estimate_mean(difference)),
            f"at equal guidance, from {guided[0]:g} on, unCLIP's images of one caption differ more "
            "from each other than those of text only (spread more by "
            f"{format_estimate(estimate_mean(difference), 3)}).",
        ),
        format_verdict(
            is_below(lost["prior"], lost["text"]),
            f"guidance {last:g} moves unCLIP less far from the renderings: its "
            f"Fréchet distance changes by {100 * lost['prior'].value:.1f}, that of text only by "
            f"{100 * lost['text'].value:.1f} (× 100).",
        ),
    ]


def _subtract(a: Estimate, b: Estimate) -> Estimate:
    """Return a - b, with the widest interval that theirs allow."""
    return Estimate(a.value - b.value, a.low - b.high, a.high - b.low)


def _measure(
    bench: Bench, captions: EvaluationSet, images: Tensor, repeated: Tensor, references: Tensor
) -> Cell:
    core = score(bench.classifier, images, captions.captions)["core"]
    places = [labels["place"] for labels in bench.classifier.classify(repeated)]
    numbers = [
        effective_number(places[k : k + IMAGES_PER_CAPTION])
        for k in range(0, len(places), IMAGES_PER_CAPTION)
    ]
    return Cell(
        estimate_share(sum(core), len(core)),
        frechet_distance(embed(bench.pipeline, images), references),
        spreads(embed(bench.pipeline, repeated).unflatten(0, (-1, IMAGES_PER_CAPTION))),
        sum(numbers) / len(numbers),
    )


def _format_cell(cell: Cell) -> list[str]:
    return [
        format_percent(cell.right),
        format_estimate(cell.distance, 2, 100),
        format_estimate(estimate_mean(cell.spreads), 3),
        f"{cell.places:.1f}",
    ]


def _plot(cells: dict[tuple[str, float], Cell], renderings: Cell, bench: Bench) -> None:
    plots: dict[str, Callable[[Cell], Estimate]] = {
        "right, %": lambda cell: _multiply(cell.right, 100),
        "Fréchet distance × 100": lambda cell: _multiply(cell.distance, 100),
        "spread": lambda cell: estimate_mean(cell.spreads),
    }
    size = (11, 3.4)
    figure, axes = load_pyplot().subplots(1, len(plots), figsize=size, layout="constrained")
    for axis, (label, value_of) in zip(axes, plots.items(), strict=True):
        for mode in MODES:
            values = [value_of(cells[mode, scale]) for scale in SCALES]
            errors = [
                [max(0.0, value.value - value.low) for value in values],
                [max(0.0, value.high - value.value) for value in values],
            ]
            axis.errorbar(
                SCALES,
                [value.value for value in values],
                errors,
                marker="o",
                capsize=2,
                label=MODE_LABELS[mode],
            )
        axis.axhline(value_of(renderings).value, color="grey", linestyle=":", label="renderings")
        axis.set(xlabel="decoder guidance scale", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    save_figure(figure, bench.figure("guidance.png"))


def _multiply(estimate: Estimate, factor: float) -> Estimate:
    return Estimate(estimate.value * factor, estimate.low * factor, estimate.high * factor)


def _save_strip(bench: Bench, plain: tuple[str, str]) -> None:
    text = f"a {' '.join(plain)}"
    rows = []
    for seed in range(STRIP_SEEDS):
        for mode in MODES:
            images = [
                bench.generate([text], [seed], mode, decoder_guidance_scale=scale)
                for scale in SCALES
            ]
            rows.append(torch.cat(images))
    save_sheet(
        rows,
        bench.figure("guidance.jpg"),
        left=[MODE_LABELS[mode] for _ in range(STRIP_SEEDS) for mode in MODES],
        above=[f"{scale:g}" for scale in SCALES],
    )
