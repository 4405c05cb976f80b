"""What `training.evaluation.evaluate` found, as Markdown and as plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from training.evaluation.figures import number, percent, plot_module, save, sheet, table, wrapped
from training.evaluation.metrics import Estimate, share
from training.evaluation.scoring import CLAIMS, SORTS

NAMES = {"prior": "unCLIP", "text": "text only", "drawings": "the drawings"}
TOLD = {
    "sign": "the word"
}  # what is counted of a sort, where it is not the things and not called like the sort
SHOWN = 8
_SETS = (
    # key, heading, digits, scale
    ("clip_score", "CLIP score", 3, 1),
    ("frechet", "Fréchet distance × 100", 2, 100),
    ("mmd", "MMD × 100", 2, 100),
    ("spread", "diversity: 1 - cosine", 3, 1),
)


def markdown(report: dict[str, Any]) -> str:
    """The whole report."""
    of = report["sets"]
    speed = report["speed"]
    ways = of["ways"]
    parameters = report["parameters"]
    measured = [
        [head, *(number(Estimate(**ways[way][key]), digits, scale) for way in ways)]
        for key, head, digits, scale in _SETS
    ]
    measured.append(
        ["places among a caption's images", *(f"{found['places']:.1f}" for found in ways.values())]
    )
    alone = ", ".join(f"{seconds:.2f} s at {size}²" for size, seconds in speed["alone"].items())
    batched = ", ".join(
        f"{NAMES[way]} {seconds:.2f} s" for way, seconds in speed["batched"].items()
    )
    parts = [
        f"# {report['checkpoint']}",
        f"Images of 64², {parameters['prior']} prior, `{parameters['sampler']}` with {parameters['decoder_num_inference_steps']} decoder "
        f"steps and guidance {parameters['decoder_guidance_scale']:g}; captions of the mix `{report['mix']}` that training never read. "
        f"{NAMES['text'].capitalize()} is the same decoder with z_i withheld; the drawings are the captions' own scenes. In brackets or as "
        "bars: intervals of 95 %.",
        "## What captions say",
        "In per cent, by the scene reader. Counted are the things (kind, colours, shapes, relation, count), or what is named in brackets.",
        by_sort(report),
        "![Right images by sort of caption](accuracy.png)",
        "Each claim, over the captions of one object, two in relation, kept back, count and sign:",
        by_claim(report),
        "## Sets of images",
        f"{of['captions']} captions of one object or two against {of['references']} other drawings, in CLIP's space. Diversity is of "
        f"{of['each']} images of each of {of['short captions']} captions that leave all but colour and shape open; of places there are "
        "5, and the number is in effect (the exponential of the entropy).",
        table(["measure", *(NAMES[way] for way in ways)], measured),
        "![Distances and diversity](sets.png)",
        "![The same captions in each way](samples.jpg)",
        "## Seconds",
        f"On {speed['device']}, {speed['threads']} threads. Alone: {alone}. In batches of {speed['batch']}, each at 64²: {batched} (by the "
        "ray tracer).",
    ]
    return "\n\n".join(parts) + "\n"


def by_sort(report: dict[str, Any]) -> str:
    """What is right of each sort, in each way."""
    rows = []
    for name, found in report["sorts"].items():
        what = f" ({TOLD[name]})" if name in TOLD else ""
        cells = [
            percent(share(counts["told"]["right"], counts["told"]["of"]))
            for counts in found.values()
        ]
        rows.append([name + what, str(found["drawings"]["told"]["of"]), *cells])
    return table(["captions", "of", *(NAMES[way] for way in _ways(report))], rows)


def by_claim(report: dict[str, Any]) -> str:
    """What is right of each claim, over all SORTS that make it."""
    rows = []
    for question in (*CLAIMS, "word"):
        counts = {way: _summed(report, way, question) for way in _ways(report)}
        if counts["drawings"]["of"]:
            rows.append(
                [
                    question,
                    str(counts["drawings"]["of"]),
                    *(per_cent(found) for found in counts.values()),
                ]
            )
    return table(["claim", "of", *(NAMES[way] for way in _ways(report))], rows)


def for_card(report: dict[str, Any]) -> str:
    """The two tables of a checkpoint's card, which has no text-only decoder beside it."""
    rows = []
    for name, found in report["sorts"].items():
        drawn = found["prior"]
        own = found["drawings"]
        rows.append(
            [
                name,
                str(drawn["told"]["of"]),
                *(per_cent(part[what]) for part in (drawn, own) for what in ("told", "all")),
            ]
        )
    heads = [
        "captions",
        "of",
        "what they ask for",
        "all that was said",
        "the drawings themselves: asked for",
        "all",
    ]
    return f"{table(heads, rows)}\n\n{by_claim(report)}\n"


def per_cent(counts: dict[str, int]) -> str:
    """Right of all, without an interval."""
    return f"{100 * counts['right'] / counts['of']:.1f} %"


def _ways(report: dict[str, Any]) -> list[str]:
    return list(next(iter(report["sorts"].values())))


def _summed(report: dict[str, Any], way: str, question: str) -> dict[str, int]:
    counts = [
        found[way][question]
        for sort, found in report["sorts"].items()
        if sort in SORTS and question in found[way]
    ]
    return {key: sum(count[key] for count in counts) for key in ("right", "of")}


def plots(report: dict[str, Any], out: Path) -> None:
    """accuracy.png and sets.png."""
    ways = _ways(report)
    sorts = report["sorts"]
    pyplot = plot_module()
    figure, axis = pyplot.subplots(figsize=(9, 3.6), layout="constrained")
    for k, way in enumerate(ways):
        shares = [
            share(found[way]["told"]["right"], found[way]["told"]["of"]) for found in sorts.values()
        ]
        _bars(axis, [n + 0.27 * (k - 1) for n in range(len(sorts))], shares, 100, NAMES[way])
    axis.set_xticks(
        range(len(sorts)),
        [wrapped(f"{name} ({TOLD[name]})" if name in TOLD else name, 14) for name in sorts],
        fontsize=8,
    )
    axis.set(ylabel="right, %", ylim=(0, 100))
    axis.legend(fontsize=8)
    save(figure, out / "accuracy.png")
    figure, axes = pyplot.subplots(1, len(_SETS), figsize=(11, 2.6), layout="constrained")
    for axis, (key, head, _, scale) in zip(axes, _SETS, strict=True):
        _bars(
            axis,
            range(len(ways)),
            [Estimate(**report["sets"]["ways"][way][key]) for way in ways],
            scale,
            None,
        )
        axis.set_xticks(range(len(ways)), [NAMES[way] for way in ways], fontsize=8)
        axis.set_title(head, fontsize=9)
    save(figure, out / "sets.png")


def _bars(axis: Any, places: Any, values: list[Estimate], scale: float, label: str | None) -> None:
    heights = [scale * value.value for value in values]
    errors = [
        [max(0.0, scale * (v.value - v.low)) for v in values],
        [max(0.0, scale * (v.high - v.value)) for v in values],
    ]
    axis.bar(places, heights, width=0.25 if label else 0.6, yerr=errors, capsize=2, label=label)


def samples(images: dict[str, Tensor], texts: list[str], count: int, out: Path) -> None:
    """samples.jpg: some of the captions in each way; `count` of one sort are followed by as many of the other."""
    few = [k for start in (0, count) for k in range(start, start + min(count, SHOWN // 2))]
    sheet(
        [drawn[few] for drawn in images.values()],
        out / "samples.jpg",
        left=[NAMES[way] for way in images],
        above=[wrapped(texts[k]) for k in few],
    )
