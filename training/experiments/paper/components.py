"""Content of the first principal components of z_i (paper §4, Fig. 7).

Images are decoded from few components, on one seed.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch
from torch import Tensor

from models import operations
from training.evaluation.figures import markdown_table, save_sheet
from training.evaluation.solids.generation import render_scenes, stack_embeddings, stack_images
from training.experiments.harness import Bench, format_figure
from training.experiments.paper.operations import photo_scenes, run_together

NUMBERS = (1, 2, 5, 10, 20, 40, 80)
QUESTIONS = ("kind", "place", "time", "colour0", "shape0", "size0")
SHEET_ROWS = 6
SEED = 0
ENOUGH = 0.9  # share of what the whole z_i gives


@dataclass(frozen=True)
class Row:
    """Results of a number of components."""

    cosine: float  # to z_i
    shares: dict[str, float]  # by question, of images with the rendering's label


@dataclass(frozen=True)
class Result:
    """Rows by number of components, the last of the whole z_i."""

    count: int  # renderings
    components: int  # of the checkpoint
    dimensions: int  # of z_i
    rows: dict[int, Row]


def measure(bench: Bench, count: int) -> Result | None:
    """Decode `count` renderings. None if the checkpoint has no principal components."""
    pipeline = bench.pipeline
    if pipeline.pca is None:
        return None
    components = pipeline.pca.config.components
    dimensions = pipeline.clip.embed_dim
    numbers = [number for number in NUMBERS if number < components] + [components]
    x = render_scenes(photo_scenes(count))
    images, z_i = _decode(bench, x, numbers)
    coordinates = pipeline.pca.project(z_i)
    cosines = {
        number: _cosine(pipeline.pca.reconstruct(coordinates[:, :number]), z_i)
        for number in numbers
    } | {dimensions: 1.0}
    labels = bench.classifier.classify(x)
    rows = {
        number: Row(cosines[number], _shares(bench.classifier.classify(decoded), labels))
        for number, decoded in images.items()
    }
    save_sheet(
        [
            torch.stack([x[n], *(decoded[n] for decoded in images.values())])
            for n in range(min(SHEET_ROWS, count))
        ],
        bench.figure("components.jpg"),
        above=["rendering", *map(str, numbers), "all of z_i"],
    )
    return Result(count, components, dimensions, rows)


def report(result: Result | None) -> str:
    """Return the part of the page."""
    if result is None:
        return "The checkpoint has no principal components."
    lines = [
        [
            f"z_i whole ({number})" if number == result.dimensions else str(number),
            f"{row.cosine:.3f}",
            *(f"{100 * row.shares[question]:.0f}" for question in QUESTIONS),
        ]
        for number, row in result.rows.items()
    ]
    return "\n\n".join(
        [
            f"z_i of {result.count} renderings, rebuilt from its first principal components and "
            f"decoded without a caption on one seed. {result.components} components hold 99 % of "
            "the variance; the paper needed 319 of 1024. The figures are per cent: how often the "
            "classifier finds the same in the image and in the rendering.",
            markdown_table(["components", "cosine to z_i", *map(_name, QUESTIONS)], lines),
            format_figure(
                "components.jpg",
                "One rendering a row, and the images from more and more of its components",
            ),
            judge(result),
        ]
    )


def judge(result: Result) -> str:
    """Return in which order the claims appear, and whether coarse ones come first."""
    whole = result.rows[result.dimensions].shares
    first = {
        question: next(
            number
            for number, row in result.rows.items()
            if row.shares[question] >= ENOUGH * whole[question]
        )
        for question in QUESTIONS
    }
    order = ", ".join(
        f"{_name(question)} at {'all' if first[question] == result.dimensions else first[question]}"
        for question in sorted(QUESTIONS, key=lambda question: first[question])
    )
    is_coarse_first = first["shape0"] >= max(first["place"], first["kind"], first["colour0"])
    opening = "As in the paper" if is_coarse_first else "Not as in the paper"
    return (
        f"- **{opening}**, where coarse meaning appears first and the finer form later. Nine "
        f"tenths of the final figure is reached for {order} components."
    )


def _decode(bench: Bench, x: Tensor, numbers: list[int]) -> tuple[dict[int, Tensor], Tensor]:
    """Return images by number of components, and z_i `[N, D]`, of images `[N, 3, 64, 64]`."""
    pipeline = bench.pipeline
    parameters = pipeline.resolve("probe", size=64)
    probes = [operations.probe(pipeline, image, (), numbers, SEED, parameters) for image in x]
    partial = torch.stack(
        [stack_images(rows) for rows in run_together(pipeline, probes)], dim=1
    )  # (numbers, N, 3, 64, 64)
    sources = [pipeline.image_row(image, parameters, invert=False) for image in x]
    pipeline.run(sources)
    rows = [
        pipeline.latent_row(row.conditioning, SEED, parameters)
        for row in sources
        if row.conditioning is not None
    ]
    pipeline.run(rows)
    whole = {pipeline.clip.embed_dim: stack_images(rows)}
    return dict(zip(numbers, partial, strict=True)) | whole, stack_embeddings(rows)


def _name(question: str) -> str:
    return question.rstrip("0")


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.cosine_similarity(a, b).mean())


def _shares(labels: list[dict[str, object]], expected: list[dict[str, object]]) -> dict[str, float]:
    return {
        question: statistics.fmean(
            a[question] == b[question] for a, b in zip(labels, expected, strict=True)
        )
        for question in QUESTIONS
    }
