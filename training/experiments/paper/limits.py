"""The limits that the paper names (§7, Fig. 14 to 17): binding, counting, detail, text on signs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from training.evaluation.figures import format_percent, markdown_table, save_sheet, wrap
from training.evaluation.metrics import Estimate, estimate_share
from training.evaluation.solids.generation import RENDERINGS, embed, embed_text, render_scenes
from training.evaluation.solids.scoring import score
from training.experiments.harness import (
    MODE_LABELS,
    Bench,
    format_figure,
    format_verdict,
    is_below,
)
from training.experiments.paper.limit_trials import (
    Trial,
    draw_binding_trials,
    draw_counting_trials,
    draw_detailed_trials,
    draw_sign_trials,
)
from training.scenes.solids.labels import expected_labels, matches
from training.scenes.solids.scene import MAX_COUNT, WORDS

MODES = ("prior", "text")
ALL_MODES = (*MODES, RENDERINGS)
DETAILS = (4, 6, 8, 10)
FAILURES_PER_GROUP = 3
MAX_FAILURES = 24
SHEET_COLUMNS = 8


@dataclass(frozen=True)
class Binding:
    """One group of captions: shares right and with swapped colours by mode, and CLIP's choice."""

    right: dict[str, Estimate]
    swapped: dict[str, Estimate]
    clip: Estimate  # renderings nearer to their own caption than to the swapped one


@dataclass(frozen=True)
class Group:
    """Captions of equal difficulty: their number, and the share of right images."""

    count: int
    right: Estimate
    renderings: Estimate


@dataclass(frozen=True)
class Signs:
    """Shares by mode of images with a sign, and with the right word."""

    count: int
    is_sign: dict[str, Estimate]
    word: dict[str, Estimate]
    chance: float  # of a guess that knows the word's length


@dataclass(frozen=True)
class Result:
    """Results of each limit, by group."""

    count: int
    binding: dict[str, Binding]
    counting: dict[str, Group]
    details: dict[str, Group]
    signs: Signs
    has_failures: bool


@dataclass
class _Failures:
    """Wrong images with their captions, a few of each group."""

    images: list[tuple[Tensor, str]] = field(default_factory=list)

    def add(self, trials: Sequence[Trial], images: Tensor, right: list[bool]) -> None:
        wrong = [(images[k], trial.caption.text) for k, trial in enumerate(trials) if not right[k]]
        self.images += wrong[:FAILURES_PER_GROUP]


def measure(bench: Bench, count: int) -> Result:
    """Measure `count` captions of each limit, half as many of each number and level of detail."""
    rng = random.Random(0)
    half = max(1, count // 2)
    failures = _Failures()
    binding = {
        name: _measure_binding(
            bench, draw_binding_trials(count, rng, same_shape=same_shape), failures
        )
        for name, same_shape in (
            ("one shape, two colours", True),
            ("two shapes, two colours", False),
        )
    }
    numbers = {str(n): draw_counting_trials(n, half, rng) for n in range(2, MAX_COUNT + 1)}
    counting = _measure_groups(bench, numbers, "core", failures)
    detailed = {str(n): draw_detailed_trials(n, half, rng) for n in DETAILS}
    details = _measure_groups(bench, detailed, "all", failures)
    signs = _measure_signs(bench, draw_sign_trials(count, rng), failures)
    _save_failures(bench, failures.images[:MAX_FAILURES])
    return Result(count, binding, counting, details, signs, bool(failures.images))


def report(result: Result) -> str:
    """Return the part of the page."""
    failures = "None of the images was wrong."
    if result.has_failures:
        figure = format_figure("failures.jpg", "Images that do not match their caption")
        failures = f"Failures of each type, not selected:\n\n{figure}"
    return "\n\n".join(
        [
            "Captions here are as plain as possible, and training may have used them.",
            *_report_binding(result),
            "**Counting**, which the paper does not measure.",
            *_report_groups("objects", result.counting, is_papers=False),
            "**Crowded scenes** (Fig. 17, where detail is lost). Two objects in relation, with "
            "more and more details in the caption. Right means all details.",
            *_report_groups("details", result.details),
            *_report_signs(result.signs),
            failures,
        ]
    )


def generate(bench: Bench, trials: Sequence[Trial], mode: str) -> Tensor:
    """Return images of the trials' captions in a mode, or renderings of their scenes."""
    if mode == RENDERINGS:
        return render_scenes([trial.scene for trial in trials])
    texts = [trial.caption.text for trial in trials]
    return bench.generate(texts, range(len(texts)), mode)


def _score(bench: Bench, trials: Sequence[Trial], images: Tensor, question: str) -> list[bool]:
    return score(bench.classifier, images, [trial.caption for trial in trials])[question]


def _share(right: list[bool]) -> Estimate:
    return estimate_share(sum(right), len(right))


def _measure_binding(bench: Bench, trials: list[Trial], failures: _Failures) -> Binding:
    """Measure how often colours are swapped (Fig. 14), and which caption CLIP prefers."""
    right = {}
    swapped = {}
    for mode in ALL_MODES:
        images = generate(bench, trials, mode)
        answers = _score(bench, trials, images, "core")
        right[mode] = _share(answers)
        swapped[mode] = _share(
            [
                matches(labels, expected_labels(trial.swapped))
                for labels, trial in zip(bench.classifier.classify(images), trials, strict=True)
                if trial.swapped is not None
            ]
        )
        if mode == "prior":
            failures.add(trials, images, answers)
    is_nearer = _prefer_caption(bench, trials)
    return Binding(right, swapped, _share(is_nearer))


def _prefer_caption(bench: Bench, trials: Sequence[Trial]) -> list[bool]:
    """Return whether CLIP places each rendering nearer to its caption than to the swapped one."""
    images = render_scenes([trial.scene for trial in trials])
    swapped = [trial.swapped.text for trial in trials if trial.swapped is not None]
    z_i = F.normalize(embed(bench.pipeline, images), dim=1)
    z_t = embed_text(bench.pipeline, [trial.caption.text for trial in trials])
    to_right = (z_i * F.normalize(z_t, dim=1)).sum(1)
    to_swapped = (z_i * F.normalize(embed_text(bench.pipeline, swapped), dim=1)).sum(1)
    return [bool(nearer) for nearer in to_right > to_swapped]


def _report_binding(result: Result) -> list[str]:
    rows = []
    for name, binding in result.binding.items():
        rows += [
            [
                name,
                MODE_LABELS[mode],
                format_percent(binding.right[mode]),
                format_percent(binding.swapped[mode]),
            ]
            for mode in ALL_MODES
        ]
        clip = binding.clip
        other = Estimate(1 - clip.value, 1 - clip.high, 1 - clip.low)
        rows.append([name, "CLIP, of the rendering", format_percent(clip), format_percent(other)])
    swapped = list(result.binding.values())[-1].swapped
    return [
        '**Binding** (Fig. 14). "A red cube on top of a blue cube": images with the objects as in '
        f"the caption, and with their colours swapped, in per cent of {result.count}. CLIP's row: "
        "which of the two captions is closer to the rendering.",
        markdown_table(["captions", "by", "as in the caption", "swapped"], rows),
        format_verdict(
            is_below(swapped["text"], swapped["prior"]),
            "text only, which attends to the words, swaps colours less often than unCLIP, which "
            "uses one z_i.",
        ),
    ]


def _measure_groups(
    bench: Bench, groups: dict[str, list[Trial]], question: str, failures: _Failures
) -> dict[str, Group]:
    results = {}
    for name, trials in groups.items():
        images = generate(bench, trials, "prior")
        right = _score(bench, trials, images, question)
        renderings = _score(bench, trials, generate(bench, trials, RENDERINGS), question)
        failures.add(trials, images, right)
        results[name] = Group(len(trials), _share(right), _share(renderings))
    return results


def _report_groups(unit: str, groups: dict[str, Group], *, is_papers: bool = True) -> list[str]:
    """Return a table of groups, and whether the share falls from the first to the last."""
    rows = [
        [name, str(group.count), format_percent(group.right), format_percent(group.renderings)]
        for name, group in groups.items()
    ]
    first, *_, last = groups
    shares = [groups[name].right for name in (first, last)]
    return [
        markdown_table([unit, "of", "right, %", "renderings"], rows),
        format_verdict(
            is_below(shares[1], shares[0]),
            f"fewer images are right with {last} {unit} ({100 * shares[1].value:.0f} %) than with "
            f"{first} ({100 * shares[0].value:.0f} %).",
            is_papers=is_papers,
        ),
    ]


def _measure_signs(bench: Bench, trials: list[Trial], failures: _Failures) -> Signs:
    is_sign = {}
    word = {}
    for mode in ALL_MODES:
        images = generate(bench, trials, mode)
        right = _score(bench, trials, images, "word")
        kinds = [labels["kind"] == "sign" for labels in bench.classifier.classify(images)]
        is_sign[mode] = _share(kinds)
        word[mode] = _share(right)
        if mode == "prior":
            failures.add(trials, images, right)
    lengths = [len(each) for each in WORDS]
    chances = [1 / lengths.count(len(str(trial.scene.word))) for trial in trials]
    return Signs(len(trials), is_sign, word, sum(chances) / len(chances))


def _report_signs(signs: Signs) -> list[str]:
    rows = [
        [MODE_LABELS[mode], format_percent(signs.is_sign[mode]), format_percent(signs.word[mode])]
        for mode in ALL_MODES
    ]
    prior = signs.word["prior"]
    comparison = "more than" if prior.low > signs.chance else "no more than"
    return [
        f"**Text** (Fig. 16). {signs.count} signs with a word, in per cent: a sign exists, and its "
        f"board is more like the rendering of that word than of any other of {len(WORDS)}. Knowing "
        f"the length of a word alone gives {100 * signs.chance:.0f}.",
        markdown_table(["by", "a sign", "its word"], rows),
        format_verdict(is_below(prior, signs.word[RENDERINGS]), "words are not spelled correctly."),
        f"- This is {comparison} chance: {100 * prior.value:.0f} % of unCLIP's words differ from "
        "other words.",
    ]


def _save_failures(bench: Bench, failures: list[tuple[Tensor, str]]) -> None:
    if not failures:
        return
    lines = [failures[k : k + SHEET_COLUMNS] for k in range(0, len(failures), SHEET_COLUMNS)]
    save_sheet(
        [torch.stack([image for image, _ in line]) for line in lines],
        bench.figure("failures.jpg"),
        under=[[wrap(text) for _, text in line] for line in lines],
    )
