"""Manipulations of images (paper §3).

Inversion, interpolations (Fig. 4), variations (Fig. 3) and text diffs (Fig. 5).
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from models import UnCLIP, operations
from models.operations import Operation
from models.row import Row
from training.evaluation.figures import format_percent, markdown_table, save_sheet
from training.evaluation.metrics import Estimate, estimate_share, psnr
from training.evaluation.solids.generation import render_scenes, stack_images
from training.experiments.harness import Bench, format_figure, format_verdict, is_majority
from training.scenes.solids.classifier import SceneClassifier
from training.scenes.solids.scene import (
    MATERIALS,
    MIXES,
    PLACES,
    SIZES,
    Scene,
    SceneObject,
    draw_scene,
)

STEPS = (10, 20, 50, 100)
GUIDANCE_SCALES = (2.0, 3.0)
ETAS = (0.0, 0.3, 0.7, 1.0)
SHEET_ROWS = 4
THETA_MAX = 0.5
TEXT_DIFF_BATCH = 32


@dataclass(frozen=True)
class Reconstruction:
    """PSNR in dB between images and those they come from."""

    median: float
    worst: float


@dataclass(frozen=True)
class TextDiff:
    """Shares of red cubes that became blue, stayed a cube, and both."""

    blue: Estimate
    cube: Estimate
    both: Estimate


@dataclass(frozen=True)
class Variations:
    """Three variations of each image at one eta."""

    unchanged: Estimate  # share with the kind, and the first object's colour and shape
    spread: float  # root mean square difference of the three


@dataclass(frozen=True)
class Result:
    """Results by setting or eta."""

    count: int
    cubes: int
    inversion: dict[str, Reconstruction]
    interpolation: Reconstruction
    text_diff: TextDiff
    variations: dict[float, Variations]


def measure(bench: Bench, count: int) -> Result:
    """Measure `count` renderings, four times as many for the text diff."""
    interpolation = measure_interpolation(bench, count)
    text_diff = measure_text_diff(bench, 4 * count)
    _save_variations(bench)
    variations = measure_variations(bench.pipeline, bench.classifier, count)
    inversion = measure_inversion(bench.pipeline, count)
    return Result(count, 4 * count, inversion, interpolation, text_diff, variations)


def report(result: Result) -> str:
    """Return the part of the page."""
    inversion = [
        [name, f"{values.median:.1f}", f"{values.worst:.1f}"]
        for name, values in result.inversion.items()
    ]
    variations = [
        [f"{eta:g}", format_percent(values.unchanged), f"{values.spread:.2f}"]
        for eta, values in result.variations.items()
    ]
    text_diff = result.text_diff
    return "\n\n".join(
        [
            f"**Inversion.** {result.count} renderings, encoded to (z_i, x_T) by CLIP and by DDIM "
            "run backwards, then decoded by DDIM without noise. Guidance is off unless a row "
            "says otherwise. PSNR in dB.",
            markdown_table(["setting", "median", "worst"], inversion),
            f"**Interpolation** (Fig. 4). The ends of {result.count} interpolations between "
            "renderings, where x_T moves too, at 50 steps without guidance: median "
            f"{result.interpolation.median:.1f} dB to the renderings, worst "
            f"{result.interpolation.worst:.1f} dB.",
            format_figure("interpolations.jpg", "Interpolations between two renderings a row"),
            f'**Text diff** (Fig. 5). Of {result.cubes} red cubes moved from "a red cube" to '
            f'"a blue cube" (θ {THETA_MAX:g}) {format_percent(text_diff.blue)} % became blue, '
            f"{format_percent(text_diff.cube)} % stayed a cube, {format_percent(text_diff.both)} % "
            "did both.",
            format_figure("text-diffs.jpg", "Red cubes that become blue"),
            f"**Variations** (Fig. 3). Three variations of each of {result.count} renderings: the "
            "share that keeps kind, colour and shape of the first object, and the root mean square "
            "difference among the three, on a scale of -1 to 1.",
            markdown_table(["eta", "unchanged, %", "spread"], variations),
            format_figure("variations.jpg", "One rendering a row, and its variations"),
            "\n".join(judge(result)),
        ]
    )


def judge(result: Result) -> list[str]:
    """Return whether the paper's claims hold."""
    spreads = [values.spread for values in result.variations.values()]
    last_eta = max(result.variations)
    return [
        format_verdict(
            is_majority(result.text_diff.both),
            "the difference of the two captions changes, and what they share stays, more often "
            "than not.",
        ),
        format_verdict(
            all(less < more for less, more in pairwise(spreads)),
            "the larger η, the farther variations stray from each other.",
        ),
        format_verdict(
            is_majority(result.variations[last_eta].unchanged),
            f"at η {last_eta:g}, too, most variations show the object of the rendering: z_i "
            "holds it.",
        ),
    ]


def photo_scenes(count: int) -> list[Scene]:
    """Return test scenes in photo style, of one object or two."""
    scenes = list[Scene]()
    index = 0
    while len(scenes) < count:
        scene = draw_scene(index, MIXES["whole"], "test")
        if scene.style == "photo" and scene.kind in ("one", "pair"):
            scenes.append(scene)
        index += 2
    return scenes


def run_together(pipeline: UnCLIP, started: Sequence[Operation]) -> list[list[Row]]:
    """Return the rows of operations with equal phases, run in shared forward passes."""
    while True:
        phases = []
        finished = []
        for operation in started:
            try:
                phases.append(next(operation))
            except StopIteration as end:
                finished.append(list(end.value.rows))
        if finished:
            return finished
        pipeline.run([row for phase in phases for row in phase.rows])


def measure_inversion(pipeline: UnCLIP, count: int) -> dict[str, Reconstruction]:
    """Reconstruct renderings from (z_i, x_T) by steps, and by guidance scale at 50 steps."""
    x = render_scenes(photo_scenes(count))
    settings: dict[str, dict[str, Any]] = {
        f"{steps} steps": {"decoder_num_inference_steps": steps} for steps in STEPS
    }
    for scale in GUIDANCE_SCALES:
        settings[f"50 steps, guidance {scale:g}"] = {
            "decoder_num_inference_steps": 50,
            "decoder_guidance_scale": scale,
        }
    results = {}
    for name, setting in settings.items():
        parameters = pipeline.resolve("variations", size=64, eta=0.0, **setting)
        started = [operations.variations(pipeline, image, [0], parameters) for image in x]
        rows = run_together(pipeline, started)
        values = [psnr(stack_images(one)[0], image) for one, image in zip(rows, x, strict=True)]
        results[name] = Reconstruction(statistics.median(values), min(values))
    return results


def measure_interpolation(bench: Bench, count: int) -> Reconstruction:
    """Compare both ends of `count` interpolations to their renderings, and save a figure."""
    x = render_scenes(photo_scenes(2 * count))
    values = []
    for k, rows in enumerate(_interpolate(bench.pipeline, x, 3)):
        ends = stack_images([rows[0], rows[-1]])
        values += [psnr(end, image) for end, image in zip(ends, x[2 * k : 2 * k + 2], strict=True)]
    lines = [
        torch.cat((x[2 * k : 2 * k + 1], stack_images(frames), x[2 * k + 1 : 2 * k + 2]))
        for k, frames in enumerate(_interpolate(bench.pipeline, x[: 2 * SHEET_ROWS], 6))
    ]
    save_sheet(
        lines,
        bench.figure("interpolations.jpg"),
        above=["rendering", *(f"θ {k / 5:g}" for k in range(6)), "rendering"],
    )
    return Reconstruction(statistics.median(values), min(values))


def _interpolate(pipeline: UnCLIP, x: Tensor, frames: int) -> list[list[Row]]:
    """Interpolate between consecutive pairs of images `[2 N, 3, 64, 64]`."""
    parameters = pipeline.resolve("interpolate", size=64)
    started = [
        operations.interpolate(pipeline, (a, b), frames, 0, parameters)
        for a, b in zip(x[::2], x[1::2], strict=True)
    ]
    return run_together(pipeline, started)


def red_cube_scenes(count: int) -> list[Scene]:
    """Return scenes of single red cubes, otherwise random."""
    rng = random.Random(0)
    scenes = []
    for _ in range(count):
        cube = SceneObject(
            "cube",
            "red",
            rng.choice(SIZES),
            rng.choice(MATERIALS),
            rng.uniform(-0.8, 0.8),
            rng.uniform(-0.5, 0.5),
        )
        scenes.append(Scene("one", (cube,), None, rng.choice(PLACES), "day", "photo"))
    return scenes


def measure_text_diff(bench: Bench, count: int) -> TextDiff:
    """Move `count` red cubes from "a red cube" to "a blue cube", and save a figure."""
    x = render_scenes(red_cube_scenes(count))
    last = []
    for part in x.split(TEXT_DIFF_BATCH):
        last += [rows[-1] for rows in _move_to_blue(bench.pipeline, part, 2)]
    all_labels = bench.classifier.classify(stack_images(last))
    blue = [labels["colour0"] == "blue" for labels in all_labels]
    cube = [labels["shape0"] == "cube" and labels["kind"] == "one" for labels in all_labels]
    both = [b and c for b, c in zip(blue, cube, strict=True)]
    lines = [
        torch.cat((x[k : k + 1], stack_images(frames)))
        for k, frames in enumerate(_move_to_blue(bench.pipeline, x[:SHEET_ROWS], 6))
    ]
    save_sheet(
        lines,
        bench.figure("text-diffs.jpg"),
        above=["rendering", *(f"θ {k / 10:g}" for k in range(6))],
    )
    return TextDiff(*(estimate_share(sum(values), count) for values in (blue, cube, both)))


def _move_to_blue(pipeline: UnCLIP, x: Tensor, frames: int) -> list[list[Row]]:
    parameters = pipeline.resolve("text-diff", size=64)
    started = [
        operations.text_diff(
            pipeline, image, "a blue cube", "a red cube", frames, THETA_MAX, 0, parameters
        )
        for image in x
    ]
    return run_together(pipeline, started)


def measure_variations(
    pipeline: UnCLIP, classifier: SceneClassifier, count: int
) -> dict[float, Variations]:
    """Make three variations of `count` renderings at each eta."""
    x = render_scenes(photo_scenes(count))
    expected = classifier.classify(x)
    results = {}
    for eta in ETAS:
        images = torch.stack(_vary(pipeline, x, eta, [1, 2, 3]))  # (N, 3, 3, 64, 64)
        is_unchanged = [
            all(a[question] == b[question] for question in ("kind", "colour0", "shape0"))
            for k in range(images.shape[1])
            for a, b in zip(classifier.classify(images[:, k]), expected, strict=True)
        ]
        share = estimate_share(sum(is_unchanged), len(is_unchanged))
        results[eta] = Variations(share, float(images.var(1).mean().sqrt()))
    return results


def _vary(pipeline: UnCLIP, x: Tensor, eta: float, seeds: list[int]) -> list[Tensor]:
    """Return the variations of each image, `[seeds, 3, 64, 64]`."""
    parameters = pipeline.resolve("variations", size=64, eta=eta)
    started = [operations.variations(pipeline, image, seeds, parameters) for image in x]
    return [stack_images(rows) for rows in run_together(pipeline, started)]


def _save_variations(bench: Bench) -> None:
    x = render_scenes(photo_scenes(SHEET_ROWS))
    columns = [
        _vary(bench.pipeline, x, eta, [0] if eta == 0 else [1, 2, 3]) for eta in (0.0, 0.7, 1.0)
    ]
    save_sheet(
        [torch.cat((x[k : k + 1], *(column[k] for column in columns))) for k in range(SHEET_ROWS)],
        bench.figure("variations.jpg"),
        above=["rendering", "η 0", *["η 0.7"] * 3, *["η 1"] * 3],
    )
