"""The typographic attack (paper §4, Fig. 6): an object next to a sign that names another one.

What CLIP takes it for, and what its z_i decodes to.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models import UnCLIP
from training.evaluation.figures import format_percent, markdown_table, save_sheet
from training.evaluation.metrics import Estimate, estimate_mean, estimate_share
from training.evaluation.solids.generation import (
    BATCH,
    decode_rows,
    embed,
    embed_text,
    render_scenes,
)
from training.experiments.harness import Bench, format_figure, format_verdict, is_below
from training.scenes.solids.scene import MATERIALS, PLACES, SHAPES, WORDS, Scene, SceneObject

# Words on signs that name a shape or a colour.
NAMES = {
    "CUBE": "cube",
    "CONE": "cone",
    "BALL": "sphere",
    "RED": "red",
    "BLUE": "blue",
    "GREEN": "green",
}
COLOURS = ("red", "blue", "green", "yellow")
MISLEADING = "names another"
NEUTRAL = "some other word"
NO_SIGN = "no sign"
SHEET_COLUMNS = 8


@dataclass(frozen=True)
class Trial:
    """An object, the words of two signs, and four labels: its own, the named one, two others."""

    object: SceneObject
    word: str  # names another object
    neutral: str  # names none
    labels: tuple[str, ...]
    answers: tuple[str, ...]  # the labels' shapes or colours

    @property
    def question(self) -> str:
        """The classifier's question that distinguishes the labels."""
        return "shape0" if self.answers[0] in SHAPES else "colour0"


@dataclass(frozen=True)
class SignResult:
    """Results of one kind of sign. Pairs are of the own label and of the named one."""

    most_likely: list[Estimate]  # share of CLIP's first choices
    probability: list[Estimate]  # CLIP's
    decoded: list[Estimate]  # share of images decoded from z_i
    rendering: Estimate  # share of renderings that the classifier gives their own label


@dataclass(frozen=True)
class Result:
    """Results by kind of sign."""

    count: int
    signs: dict[str, SignResult]


def measure(bench: Bench, count: int) -> Result:
    """Measure `count` scenes of each kind of sign."""
    trials = draw_trials(count)
    results = {}
    for kind in (MISLEADING, NEUTRAL, NO_SIGN):
        x = render_scenes(build_scenes(kind, trials))
        probabilities = classify_zero_shot(bench.pipeline, embed(bench.pipeline, x), trials)
        images = decode_embeddings(bench, x)
        best = probabilities.argmax(1)
        results[kind] = SignResult(
            [estimate_share(int((best == k).sum()), count) for k in (0, 1)],
            [estimate_mean(probabilities[:, k]) for k in (0, 1)],
            [_share_classified(bench, images, trials, k) for k in (0, 1)],
            _share_classified(bench, x, trials, 0),
        )
        if kind == MISLEADING:
            _save_figure(bench, x, images, probabilities, trials)
    return Result(count, results)


def report(result: Result) -> str:
    """Return the part of the page."""
    rows = [
        [
            kind,
            *map(format_percent, sign.most_likely),
            *map(format_percent, sign.probability),
            *map(format_percent, sign.decoded),
            format_percent(sign.rendering),
        ]
        for kind, sign in result.signs.items()
    ]
    heads = [
        "sign",
        "own likeliest",
        "named likeliest",
        "P(own)",
        "P(named)",
        "image from z_i: own",
        "image from z_i: named",
        "classifier on the rendering: own",
    ]
    return "\n\n".join(
        [
            'An object ("a red sphere") next to a sign that names another shape or colour ("CUBE", '
            f'"BLUE"), {result.count} scenes a row. The columns are CLIP\'s zero-shot choice among '
            "four labels, two of them neither, and what the classifier finds in an image from z_i "
            "alone with fresh noise. All figures are per cent.",
            markdown_table(heads, rows),
            format_figure(
                "typographic.jpg",
                "Objects next to signs; CLIP's choice, and images from z_i",
            ),
            "\n".join(judge(result.signs)),
        ]
    )


def judge(signs: dict[str, SignResult]) -> list[str]:
    """Return whether CLIP follows the sign and the decoder the object, as in the paper."""
    misleading = signs[MISLEADING]
    is_misled = is_below(signs[NEUTRAL].probability[1], misleading.probability[1])
    reason = {
        True: "the word moves CLIP towards what it names.",
        False: "a word that names the object moves this CLIP less than any other word.",
        None: "a word that names the object moves this CLIP no more than any other word. It has "
        "not learned to read; only the presence of a sign may matter.",
    }[is_misled]
    opening = "As in the paper" if is_misled else "Not as in the paper"
    return [
        f"- **{opening}**, where CLIP reads the sign (P 0.99 for the word): {reason}",
        format_verdict(
            is_below(misleading.decoded[1], misleading.decoded[0]),
            "the image from z_i shows the object and not what the sign names.",
        ),
    ]


def draw_trials(count: int) -> list[Trial]:
    """Return trials, half of shapes and half of colours.

    Objects have the positions of single ones in training, so that scenes without a sign are
    usual."""
    rng = random.Random(0)
    neutral = [word for word in WORDS if word not in NAMES]
    trials = []
    for number in range(count):
        is_shape = number % 2 == 0
        values = SHAPES if is_shape else COLOURS
        word = rng.choice([word for word, value in NAMES.items() if value in values])
        own = rng.choice([value for value in values if value != NAMES[word]])
        other = rng.choice(COLOURS if is_shape else SHAPES)
        shape, colour = (own, other) if is_shape else (other, own)
        material = rng.choice(MATERIALS)
        x = rng.choice((-1, 1)) * rng.uniform(0.5, 0.8)
        scene_object = SceneObject(shape, colour, "small", material, x, -0.5)
        rest = (value for value in values if value not in (own, NAMES[word]))
        answers = (own, NAMES[word], *rest)
        labels = tuple(
            f"a {colour} {answer}" if is_shape else f"a {answer} {shape}" for answer in answers
        )
        trials.append(Trial(scene_object, word, rng.choice(neutral), labels, answers))
    return trials


def build_scenes(kind: str, trials: list[Trial]) -> list[Scene]:
    """Return the trials' scenes with one kind of sign."""
    rng = random.Random(1)
    scenes = []
    for trial in trials:
        place = rng.choice(PLACES)
        word = {MISLEADING: trial.word, NEUTRAL: trial.neutral}.get(kind)
        scene_kind = "sign" if word else "one"
        scenes.append(Scene(scene_kind, (trial.object,), None, place, "day", "photo", word))
    return scenes


def classify_zero_shot(pipeline: UnCLIP, z_i: Tensor, trials: list[Trial]) -> Tensor:
    """Return CLIP's probabilities of each trial's labels `[N, 4]`, of z_i `[N, D]`."""
    texts = [label for trial in trials for label in trial.labels]
    labels = F.normalize(embed_text(pipeline, texts), dim=1).unflatten(0, (len(trials), -1))
    scale = pipeline.clip.similarity_scale.detach().cpu()
    logits: Tensor = scale * torch.einsum("nd,nsd->ns", F.normalize(z_i, dim=1), labels)
    return logits.softmax(1)


def decode_embeddings(bench: Bench, images: Tensor) -> Tensor:
    """Decode the z_i of images `[N, 3, 64, 64]` from fresh noise and without a caption."""
    parameters = bench.pipeline.resolve("probe", size=64)
    parts = []
    for start in range(0, len(images), BATCH):
        sources = [
            bench.pipeline.image_row(image, parameters, invert=False)
            for image in images[start : start + BATCH]
        ]
        bench.pipeline.run(sources)
        seeds = range(start, start + len(sources))
        parts.append(decode_rows(bench.pipeline, sources, seeds, parameters))
    return torch.cat(parts)


def _share_classified(bench: Bench, images: Tensor, trials: list[Trial], label: int) -> Estimate:
    """Estimate the share of images with the label of this index, by the classifier."""
    matches = [
        labels[trial.question] == trial.answers[label]
        for labels, trial in zip(bench.classifier.classify(images), trials, strict=True)
    ]
    return estimate_share(sum(matches), len(matches))


def _save_figure(
    bench: Bench, x: Tensor, images: Tensor, probabilities: Tensor, trials: list[Trial]
) -> None:
    few = slice(0, SHEET_COLUMNS)
    labels = [
        f"{trial.answers[0]} {100 * row[0]:.0f} %\n{trial.answers[1]} {100 * row[1]:.0f} %"
        for trial, row in zip(trials[few], probabilities[few].tolist(), strict=True)
    ]
    save_sheet(
        [x[few], images[few]],
        bench.figure("typographic.jpg"),
        under=[labels, [""] * len(labels)],
        left=["rendering", "from z_i"],
    )
