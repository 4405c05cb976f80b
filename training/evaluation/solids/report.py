"""The results of `python -m training.evaluation`, as Markdown and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from training.evaluation.figures import (
    format_estimate,
    format_percent,
    load_pyplot,
    markdown_table,
    save_figure,
    save_sheet,
    wrap,
    wrap_markdown,
)
from training.evaluation.metrics import Estimate, estimate_share
from training.evaluation.solids.generation import RENDERINGS
from training.evaluation.solids.scoring import CAPTION_TYPES, CLAIMS
from training.scenes.solids.scene import PLACES

MODE_NAMES = {"prior": "unCLIP", "text": "text only", RENDERINGS: "renderings"}
# What counts for a caption type, unless it is the objects or the type's own name.
CHECKED = {"sign": "the word"}
SHEET_COLUMNS = 8
_SET_METRICS = (
    # key, heading, digits, scale
    ("clip_score", "CLIP score", 3, 1),
    ("frechet", "Fréchet distance × 100", 2, 100),
    ("mmd", "MMD × 100", 2, 100),
    ("spread", "diversity: 1 - cosine", 3, 1),
)


def format_report(report: dict[str, Any]) -> str:
    """Return the whole report as Markdown."""
    sets = report["sets"]
    parameters = report["parameters"]
    parts = [
        f"# {report['checkpoint']}",
        f"Images of 64², {parameters['prior']} prior, `{parameters['sampler']}` with "
        f"{parameters['decoder_num_inference_steps']} decoder steps and guidance "
        f"{parameters['decoder_guidance_scale']:g}. Captions are held out, of the mix "
        f'`{report["mix"]}`. "Text only" is the same decoder without z_i. "Renderings" are the '
        "scenes of the captions themselves. Intervals, in brackets or as bars, are of 95 %.",
        "## Captions",
        "Figures are per cent, by the scene classifier. Counted are the objects (kind, colours, "
        "shapes, relation, count), or what is in brackets.",
        format_caption_types(report),
        "![Right images by type of caption](accuracy.png)",
        f"Each claim, over the captions of {', '.join(CAPTION_TYPES)}:",
        format_claims(report),
        "## Sets of images",
        f"{sets['captions']} captions of one or two objects against {sets['references']} other "
        f"renderings, in CLIP's space. Diversity uses {sets['images per caption']} images of each "
        f"of {sets['short captions']} captions that leave all but colour and shape open. There are "
        f"{len(PLACES)} places; the number is the effective one (the exponential of the entropy).",
        _format_sets(sets),
        "![Distances and diversity](sets.png)",
        "![The same captions in each mode](samples.jpg)",
        "## Seconds",
        _format_speed(report["speed"]),
    ]
    return wrap_markdown("\n\n".join(parts)) + "\n"


def _format_sets(sets: dict[str, Any]) -> str:
    modes = sets["modes"]
    rows = [
        [
            head,
            *(format_estimate(Estimate(**modes[mode][key]), digits, scale) for mode in modes),
        ]
        for key, head, digits, scale in _SET_METRICS
    ]
    places = [f"{metrics['places']:.1f}" for metrics in modes.values()]
    rows.append(["places among a caption's images", *places])
    return markdown_table(["measure", *(MODE_NAMES[mode] for mode in modes)], rows)


def _format_speed(speed: dict[str, Any]) -> str:
    single = ", ".join(f"{seconds:.2f} s at {size}²" for size, seconds in speed["single"].items())
    batched = ", ".join(
        f"{MODE_NAMES[mode]} {seconds:.2f} s" for mode, seconds in speed["batched"].items()
    )
    return (
        f"On {speed['device']}, {speed['threads']} threads. Alone: {single}. In batches of "
        f"{speed['batch']}, each at 64²: {batched} (by the ray tracer)."
    )


def format_caption_types(report: dict[str, Any]) -> str:
    """Return a table of what is right of each caption type, in each mode."""
    rows = []
    for name, modes in report["caption types"].items():
        cells = [
            format_percent(estimate_share(counts["checked"]["right"], counts["checked"]["total"]))
            for counts in modes.values()
        ]
        rows.append([_type_label(name), str(modes[RENDERINGS]["checked"]["total"]), *cells])
    names = [MODE_NAMES[mode] for mode in _modes(report)]
    return markdown_table(["captions", "of", *names], rows)


def format_claims(report: dict[str, Any]) -> str:
    """Return a table of what is right of each claim, over all CAPTION_TYPES that make it."""
    rows = []
    for question in (*CLAIMS, "word"):
        counts = {mode: _sum_counts(report, mode, question) for mode in _modes(report)}
        total = counts[RENDERINGS]["total"]
        if total:
            rows.append([question, str(total), *map(format_counts, counts.values())])
    names = [MODE_NAMES[mode] for mode in _modes(report)]
    return markdown_table(["claim", "of", *names], rows)


def format_card_tables(report: dict[str, Any]) -> str:
    """Return the two tables of a checkpoint's card, which has no text-only mode."""
    rows = []
    for name, modes in report["caption types"].items():
        cells = [
            format_counts(modes[mode][question])
            for mode in ("prior", RENDERINGS)
            for question in ("checked", "all")
        ]
        rows.append([name, str(modes["prior"]["checked"]["total"]), *cells])
    heads = [
        "captions",
        "of",
        "main",
        "all",
        "renderings: main",
        "renderings: all",
    ]
    return f"{markdown_table(heads, rows)}\n\n{format_claims(report)}\n"


def format_counts(counts: dict[str, int]) -> str:
    """Return the share of right answers in per cent, without an interval."""
    return f"{100 * counts['right'] / counts['total']:.1f} %"


def _type_label(name: str) -> str:
    return f"{name} ({CHECKED[name]})" if name in CHECKED else name


def _modes(report: dict[str, Any]) -> list[str]:
    return list(next(iter(report["caption types"].values())))


def _sum_counts(report: dict[str, Any], mode: str, question: str) -> dict[str, int]:
    counts = [
        modes[mode][question]
        for name, modes in report["caption types"].items()
        if name in CAPTION_TYPES and question in modes[mode]
    ]
    return {key: sum(count[key] for count in counts) for key in ("right", "total")}


def save_plots(report: dict[str, Any], out: Path) -> None:
    """Write accuracy.png and sets.png."""
    _plot_accuracy(report, out / "accuracy.png")
    _plot_sets(report, out / "sets.png")


def _plot_accuracy(report: dict[str, Any], path: Path) -> None:
    types = report["caption types"]
    figure, axis = load_pyplot().subplots(figsize=(9, 3.6), layout="constrained")
    for k, mode in enumerate(_modes(report)):
        counts = [modes[mode]["checked"] for modes in types.values()]
        shares = [estimate_share(count["right"], count["total"]) for count in counts]
        places = [n + 0.27 * (k - 1) for n in range(len(types))]
        _plot_bars(axis, places, shares, 100, MODE_NAMES[mode])
    labels = [wrap(_type_label(name), 14) for name in types]
    axis.set_xticks(range(len(types)), labels, fontsize=8)
    axis.set(ylabel="right, %", ylim=(0, 100))
    axis.legend(fontsize=8)
    save_figure(figure, path)


def _plot_sets(report: dict[str, Any], path: Path) -> None:
    modes = report["sets"]["modes"]
    names = [MODE_NAMES[mode] for mode in modes]
    size = (11, 2.6)
    figure, axes = load_pyplot().subplots(1, len(_SET_METRICS), figsize=size, layout="constrained")
    for axis, (key, head, _, scale) in zip(axes, _SET_METRICS, strict=True):
        values = [Estimate(**metrics[key]) for metrics in modes.values()]
        _plot_bars(axis, range(len(modes)), values, scale, None)
        axis.set_xticks(range(len(modes)), names, fontsize=8)
        axis.set_title(head, fontsize=9)
    save_figure(figure, path)


def _plot_bars(
    axis: Any, places: Any, values: list[Estimate], scale: float, label: str | None
) -> None:
    heights = [scale * value.value for value in values]
    errors = [
        [max(0.0, scale * (value.value - value.low)) for value in values],
        [max(0.0, scale * (value.high - value.value)) for value in values],
    ]
    axis.bar(places, heights, width=0.25 if label else 0.6, yerr=errors, capsize=2, label=label)


def save_samples(images: dict[str, Tensor], texts: list[str], count: int, out: Path) -> None:
    """Write samples.jpg: some captions in each mode, of both types of `count` captions each."""
    per_type = min(count, SHEET_COLUMNS // 2)
    indices = [k for start in (0, count) for k in range(start, start + per_type)]
    save_sheet(
        [images_of_mode[indices] for images_of_mode in images.values()],
        out / "samples.jpg",
        left=[MODE_NAMES[mode] for mode in images],
        above=[wrap(texts[k]) for k in indices],
    )
