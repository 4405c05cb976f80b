"""Diversity against fidelity as the decoder's guidance grows, unCLIP beside the decoder on text alone (paper §5.3, Fig. 9 and 10)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from training.evaluation.figures import number, percent, plot_module, save, sheet, table
from training.evaluation.generation import (
    WAYS,
    Subjects,
    drawings,
    embed,
    matching,
    plain_captions,
    reference,
    subjects,
)
from training.evaluation.metrics import Estimate, frechet_distance, kinds, mean, share, spreads
from training.evaluation.scoring import judged
from training.experiments.harness import Bench, below, embedded, positive, verdict

SCALES = (1.0, 1.5, 2.0, 3.0, 4.0)
COMPARED = ("prior", "text")
SORTS = ("one object", "two in relation")
EACH = 8  # images of a caption
REFERENCES = 1024  # drawings of each sort


@dataclass(frozen=True)
class Cell:
    """What one way gave at one scale."""

    right: Estimate
    distance: Estimate
    spreads: Tensor  # of each short caption
    places: float


def run(bench: Bench, count: int) -> str:
    """`count` captions of each sort for fidelity; a quarter as many short ones, EACH images of each, for diversity."""
    of = subjects(SORTS, count, bench.mix)
    plain = plain_captions(max(2, count // 4))
    given = reference(bench.pipeline, SORTS, max(REFERENCES, 2 * count), bench.mix)
    cells = {
        (way, scale): _cell(bench, way, scale, of, plain, given)
        for way in COMPARED
        for scale in SCALES
    }
    own = _measured(
        bench,
        of,
        of.images(),
        drawings([shown for c, s in plain for shown in matching(c, s, EACH, bench.mix)]),
        given,
    )
    _plot(cells, own, bench)
    _strip(bench, plain[0])
    rows = [[WAYS[way], f"{scale:g}", *_cells(cell)] for (way, scale), cell in cells.items()] + [
        ["the drawings", "", *_cells(own)]
    ]
    return "\n\n".join(
        [
            f"{len(of.texts)} captions for fidelity; for diversity {len(plain)} plain ones that leave all but colour and shape open, "
            f"{EACH} images of each: 1 - cosine of two images' z_i in the mean, and how many different places (of 5) they show "
            "in effect.",
            table(["way", "guidance", "right, %", "Fréchet × 100", "spread", "places"], rows),
            embedded("guidance.png", "Right images, Fréchet distance and spread against guidance"),
            f"The same noise at guidance {', '.join(f'{scale:g}' for scale in SCALES)} (as the paper's Fig. 9), one z_i a pair of rows: "
            f'above unCLIP, below text only, "a {" ".join(plain[0])}".',
            embedded("guidance.jpg", "Images at growing guidance"),
            "\n".join(judgement(cells)),
        ]
    )


def judgement(cells: dict[tuple[str, float], Cell]) -> list[str]:
    """What the paper says of Fig. 9 and 10, held against the cells. Spreads are compared caption by caption."""
    first = SCALES[0]
    last = SCALES[-1]
    guided = SCALES[1:]
    change = {way: cells[way, last].spreads - cells[way, first].spreads for way in COMPARED}
    wider = torch.stack(
        [cells["prior", scale].spreads - cells["text", scale].spreads for scale in guided]
    ).mean(0)
    lost = {
        way: _difference(cells[way, last].distance, cells[way, first].distance) for way in COMPARED
    }
    return [
        verdict(
            positive(mean(change["prior"] - change["text"])),
            f"guidance {last:g} costs unCLIP less of its diversity: from guidance {first:g} on its spread changes by "
            f"{number(mean(change['prior']), 3)}, that of text only by {number(mean(change['text']), 3)}.",
        ),
        verdict(
            positive(mean(wider)),
            f"at equal guidance, from {guided[0]:g} on, unCLIP's images of one caption differ more from each other than those of text "
            f"only (spread more by {number(mean(wider), 3)}).",
        ),
        verdict(
            below(lost["prior"], lost["text"]),
            f"guidance {last:g} costs unCLIP less of its nearness to the drawings: its Fréchet distance changes by "
            f"{100 * lost['prior'].value:.1f}, that of text only by {100 * lost['text'].value:.1f} (× 100).",
        ),
    ]


def _difference(a: Estimate, b: Estimate) -> Estimate:
    """a - b, with the widest interval that theirs allow."""
    return Estimate(a.value - b.value, a.low - b.high, a.high - b.low)


def _cell(
    bench: Bench, way: str, scale: float, of: Subjects, plain: list[tuple[str, str]], given: Tensor
) -> Cell:
    texts = [f"a {colour} {shape}" for colour, shape in plain for _ in range(EACH)]
    images = bench.draw(of.texts, of.seeds, way, decoder_guidance_scale=scale)
    return _measured(
        bench,
        of,
        images,
        bench.draw(texts, range(len(texts)), way, decoder_guidance_scale=scale),
        given,
    )


def _measured(bench: Bench, of: Subjects, images: Tensor, several: Tensor, given: Tensor) -> Cell:
    core = judged(bench.reader, images, of.captions)["core"]
    places = [answers["place"] for answers in bench.reader.read(several)]
    each = [kinds(places[k : k + EACH]) for k in range(0, len(places), EACH)]
    return Cell(
        share(sum(core), len(core)),
        frechet_distance(embed(bench.pipeline, images), given),
        spreads(embed(bench.pipeline, several).unflatten(0, (-1, EACH))),
        sum(each) / len(each),
    )


def _cells(cell: Cell) -> list[str]:
    return [
        percent(cell.right),
        number(cell.distance, 2, 100),
        number(mean(cell.spreads), 3),
        f"{cell.places:.1f}",
    ]


def _plot(cells: dict[tuple[str, float], Cell], own: Cell, bench: Bench) -> None:
    shown: dict[str, Callable[[Cell], Estimate]] = {
        "right, %": lambda cell: _scaled(cell.right, 100),
        "Fréchet distance × 100": lambda cell: _scaled(cell.distance, 100),
        "spread": lambda cell: mean(cell.spreads),
    }
    figure, axes = plot_module().subplots(1, len(shown), figsize=(11, 3.4), layout="constrained")
    for axis, (label, value) in zip(axes, shown.items(), strict=True):
        for way in COMPARED:
            found = [value(cells[way, scale]) for scale in SCALES]
            errors = [
                [max(0.0, e.value - e.low) for e in found],
                [max(0.0, e.high - e.value) for e in found],
            ]
            axis.errorbar(
                SCALES, [e.value for e in found], errors, marker="o", capsize=2, label=WAYS[way]
            )
        axis.axhline(value(own).value, color="grey", linestyle=":", label="the drawings")
        axis.set(xlabel="decoder guidance", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    save(figure, bench.figure("guidance.png"))


def _scaled(estimate: Estimate, by: float) -> Estimate:
    return Estimate(estimate.value * by, estimate.low * by, estimate.high * by)


def _strip(bench: Bench, plain: tuple[str, str], seeds: int = 2) -> None:
    text = f"a {' '.join(plain)}"
    rows = []
    for seed in range(seeds):
        for way in COMPARED:
            rows.append(
                torch.cat(
                    [bench.draw([text], [seed], way, decoder_guidance_scale=s) for s in SCALES]
                )
            )
    sheet(
        rows,
        bench.figure("guidance.jpg"),
        left=[WAYS[way] for _ in range(seeds) for way in COMPARED],
        above=[f"{s:g}" for s in SCALES],
    )
