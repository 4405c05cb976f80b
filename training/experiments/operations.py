"""What makes an image of a latent (paper §3): inversion, interpolations (Fig. 4), variations (Fig. 3), text diffs (Fig. 5)."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor

from models import UnCLIP, operations
from models.operations import Operation
from models.row import Row
from training.evaluation.figures import percent, sheet, table
from training.evaluation.generation import drawings
from training.evaluation.metrics import Estimate, psnr, share
from training.experiments.harness import Bench, embedded, verdict
from training.scenes.classifier import Reader
from training.scenes.solids.scene import MATERIALS, MIXES, PLACES, SIZES, Scene, Thing, scene

STEPS = (10, 20, 50, 100)
GUIDANCE = (2.0, 3.0)
ETAS = (0.0, 0.3, 0.7, 1.0)
SHOWN = 4


def photos(count: int) -> list[Scene]:
    """Fresh scenes in the photographic style, of one thing or two."""
    found = list[Scene]()
    index = 0
    while len(found) < count:
        shown = scene(index, MIXES["whole"], "fresh")
        if shown.style == "photo" and shown.kind in ("one", "pair"):
            found.append(shown)
        index += 2
    return found


def drawn(pipeline: UnCLIP, many: Sequence[Operation]) -> list[list[Row]]:
    """The rows of operations of equal phases, whose passes are shared."""
    live = list(many)
    while True:
        phases = []
        ended = []
        for operation in live:
            try:
                phases.append(next(operation))
            except StopIteration as end:
                ended.append(list(end.value.rows))
        if ended:
            return ended
        pipeline.draw([row for phase in phases for row in phase.rows])


def images(rows: Sequence[Row]) -> Tensor:
    """Their images `[B, 3, 64, 64]`."""
    return torch.stack([cast(Tensor, row.image) for row in rows]).cpu()


def inversion(pipeline: UnCLIP, count: int) -> list[tuple[str, float, float]]:
    """(setting, median, worst) PSNR of drawings that come back from their (z_i, x_T) without noise: by steps, and by guidance at 50."""
    x = drawings(photos(count))
    settings: list[tuple[str, dict[str, Any]]] = [
        (f"{n} steps", {"decoder_num_inference_steps": n}) for n in STEPS
    ]
    settings += [
        (
            f"50 steps, guidance {g:g}",
            {"decoder_num_inference_steps": 50, "decoder_guidance_scale": g},
        )
        for g in GUIDANCE
    ]
    found = []
    for name, given in settings:
        parameters = pipeline.resolve("variations", size=64, eta=0.0, **given)
        rows = drawn(
            pipeline, [operations.variations(pipeline, image, [0], parameters) for image in x]
        )
        values = [psnr(images(one)[0], image) for one, image in zip(rows, x, strict=True)]
        found.append((name, statistics.median(values), min(values)))
    return found


def interpolation(bench: Bench, count: int) -> tuple[float, float]:
    """(median, worst) PSNR of both ends of `count` interpolations between drawings, against the drawings; a figure of some."""
    x = drawings(photos(2 * count))
    parameters = bench.pipeline.resolve("interpolate", size=64)
    pairs = [
        operations.interpolate(bench.pipeline, (a, b), 3, 0, parameters)
        for a, b in zip(x[::2], x[1::2], strict=True)
    ]
    values = []
    for k, (first, _, last) in enumerate(drawn(bench.pipeline, pairs)):
        values += [psnr(images([row])[0], x[2 * k + end]) for end, row in enumerate((first, last))]
    few = [
        operations.interpolate(bench.pipeline, (a, b), 6, 0, parameters)
        for a, b in zip(x[: 2 * SHOWN : 2], x[1 : 2 * SHOWN : 2], strict=True)
    ]
    rows = [
        torch.cat((x[2 * k : 2 * k + 1], images(frames), x[2 * k + 1 : 2 * k + 2]))
        for k, frames in enumerate(drawn(bench.pipeline, few))
    ]
    sheet(
        rows,
        bench.figure("interpolations.jpg"),
        above=["drawing", *(f"θ {k / 5:g}" for k in range(6)), "drawing"],
    )
    return statistics.median(values), min(values)


def red_cubes(count: int) -> list[Scene]:
    """Single red cubes, anything else as it falls."""
    rng = random.Random(0)
    found = []
    for _ in range(count):
        thing = Thing(
            "cube",
            "red",
            rng.choice(SIZES),
            rng.choice(MATERIALS),
            rng.uniform(-0.8, 0.8),
            rng.uniform(-0.5, 0.5),
        )
        found.append(Scene("one", (thing,), None, rng.choice(PLACES), "day", "photo"))
    return found


def text_diff(bench: Bench, count: int) -> tuple[Estimate, Estimate, Estimate]:
    """Shares (blue, cube, both) of `count` red cubes moved from "a red cube" to "a blue cube"; a figure of some."""
    pipeline = bench.pipeline
    x = drawings(red_cubes(count))
    parameters = pipeline.resolve("text-diff", size=64)
    last = []
    for part in x.split(32):
        many = [
            operations.text_diff(
                pipeline, image, "a blue cube", "a red cube", 2, 0.5, 0, parameters
            )
            for image in part
        ]
        last += [rows[-1] for rows in drawn(pipeline, many)]
    answers = bench.reader.read(images(last))
    blue = [answer["colour0"] == "blue" for answer in answers]
    cube = [answer["shape0"] == "cube" and answer["kind"] == "one" for answer in answers]
    few = [
        operations.text_diff(pipeline, image, "a blue cube", "a red cube", 6, 0.5, 0, parameters)
        for image in x[:SHOWN]
    ]
    rows = [
        torch.cat((x[k : k + 1], images(frames))) for k, frames in enumerate(drawn(pipeline, few))
    ]
    sheet(
        rows,
        bench.figure("text-diffs.jpg"),
        above=["drawing", *(f"θ {k / 10:g}" for k in range(6))],
    )
    both = [b and c for b, c in zip(blue, cube, strict=True)]
    return share(sum(blue), count), share(sum(cube), count), share(sum(both), count)


def variations(pipeline: UnCLIP, reader: Reader, count: int) -> list[tuple[float, Estimate, float]]:
    """(eta, share that keeps kind and the first thing's colour and shape, root mean square spread of three seeds) of drawings."""
    x = drawings(photos(count))
    true = reader.read(x)
    found = []
    for eta in ETAS:
        parameters = pipeline.resolve("variations", size=64, eta=eta)
        rows = drawn(
            pipeline, [operations.variations(pipeline, image, [1, 2, 3], parameters) for image in x]
        )
        stacked = torch.stack([images(three) for three in rows])  # (N, 3, 3, 64, 64)
        said = [reader.read(stacked[:, k]) for k in range(3)]
        kept = [
            all(a[q] == t[q] for q in ("kind", "colour0", "shape0"))
            for one in said
            for a, t in zip(one, true, strict=True)
        ]
        found.append((eta, share(sum(kept), len(kept)), float(stacked.var(1).mean().sqrt())))
    return found


def _figure_of_variations(bench: Bench) -> None:
    x = drawings(photos(SHOWN))
    columns = []
    for eta in (0.0, 0.7, 1.0):
        parameters = bench.pipeline.resolve("variations", size=64, eta=eta)
        seeds = [0] if eta == 0 else [1, 2, 3]
        columns.append(
            [
                images(r)
                for r in drawn(
                    bench.pipeline,
                    [operations.variations(bench.pipeline, p, seeds, parameters) for p in x],
                )
            ]
        )
    rows = [torch.cat((x[k : k + 1], *(column[k] for column in columns))) for k in range(SHOWN)]
    sheet(
        rows, bench.figure("variations.jpg"), above=["drawing", "η 0", *["η 0.7"] * 3, *["η 1"] * 3]
    )


def _mostly(estimate: Estimate) -> bool | None:
    """Whether a share is above a half; None where its interval has both."""
    return None if estimate.low <= 0.5 <= estimate.high else estimate.value > 0.5


def run(bench: Bench, count: int) -> str:
    """Of `count` drawings; four times as many for the text diff."""
    median, worst = interpolation(bench, count)
    blue, cube, both = text_diff(bench, 4 * count)
    _figure_of_variations(bench)
    found = variations(bench.pipeline, bench.reader, count)
    reproduced = inversion(bench.pipeline, count)
    return "\n\n".join(
        [
            f"**Inversion.** {count} drawings encoded to (z_i, x_T) by CLIP and DDIM run backwards, and decoded by DDIM without noise and, "
            "where nothing else is said, without guidance. PSNR in dB.",
            table(
                ["setting", "median", "worst"],
                [[name, f"{m:.1f}", f"{w:.1f}"] for name, m, w in reproduced],
            ),
            f"**Interpolation** (Fig. 4). The ends of {count} interpolations between drawings, x_T going along, at 50 steps and no "
            f"guidance: {median:.1f} dB to the drawings in the median, {worst:.1f} dB at worst.",
            embedded("interpolations.jpg", "Interpolations between two drawings a row"),
            f'**Text diff** (Fig. 5). Of {4 * count} red cubes moved from "a red cube" to "a blue cube" (θ 0.5) {percent(blue)} % became '
            f"blue, {percent(cube)} % stayed a cube, {percent(both)} % did both.",
            embedded("text-diffs.jpg", "Red cubes that become blue"),
            f"**Variations** (Fig. 3). Three of each of {count} drawings: the share that keeps kind, colour and shape of the first thing, "
            "and the root mean square of what three differ by, on a scale of -1 to 1.",
            table(
                ["eta", "kept, %", "spread"],
                [[f"{eta:g}", percent(kept), f"{spread:.2f}"] for eta, kept, spread in found],
            ),
            embedded("variations.jpg", "A drawing a row, and its variations"),
            "\n".join(
                [
                    verdict(
                        _mostly(both),
                        "what the two captions differ by is changed, and what they share stays, more often than not.",
                    ),
                    verdict(
                        all(less < more for (*_, less), (*_, more) in pairwise(found)),
                        "the larger η, the farther variations stray from each other.",
                    ),
                    verdict(
                        _mostly(found[-1][1]),
                        "at η 1, too, most variations keep what the drawing is of: z_i holds it.",
                    ),
                ]
            ),
        ]
    )
