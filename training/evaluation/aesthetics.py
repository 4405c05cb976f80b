"""`python -m training.evaluation.aesthetics ratings.csv`: predict human ratings from embeddings.

The paper's aesthetic measure (§5.4): a linear probe, by ridge regression of mean ratings on z_i.
The ratings are a CSV like AVA's (Murray et al. 2012): a column `path`, relative to its folder, and
either `rating`, the mean, or `1` to `10`, the number of people who gave each score.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from models import UnCLIP
from training.evaluation.metrics import pearson, spearman

COUNTS = tuple(map(str, range(1, 11)))
ALPHAS = tuple(10.0**power for power in range(-6, 4))
HELD_OUT = 5  # one image in five is held out
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Rating:
    """An image and its mean rating."""

    path: Path
    value: float


def read_ratings(file: Path) -> list[Rating]:
    """Read a CSV of ratings. Raises ValueError, with the line, for an invalid one."""
    ratings = []
    with file.open(newline="", encoding="utf-8-sig") as lines:
        rows = csv.DictReader(lines)
        heads = rows.fieldnames or []
        if "path" not in heads or not ("rating" in heads or set(COUNTS) <= set(heads)):
            raise ValueError(
                f"{file} has the columns {', '.join(heads)}: it needs path, and either rating or "
                "1 to 10"
            )
        for number, row in enumerate(rows, start=2):
            try:
                value = (
                    float(row["rating"])
                    if "rating" in heads
                    else _mean_of_counts([float(row[head]) for head in COUNTS])
                )
            except (TypeError, ValueError, ZeroDivisionError) as error:
                raise ValueError(
                    f"{file}, line {number}: {row} has no rating: write a number, or at least one "
                    "count above 0"
                ) from error
            ratings.append(Rating(file.parent / row["path"], value))
    return ratings


def _mean_of_counts(counts: list[float]) -> float:
    return sum(score * count for score, count in enumerate(counts, start=1)) / sum(counts)


def open_image(path: Path, size: int) -> Tensor:
    """Return the central square of an image file, `[3, size, size]` in [-1, 1].

    EXIF rotation is applied."""
    with Image.open(path) as file:
        image = ImageOps.fit(
            ImageOps.exif_transpose(file).convert("RGB"), (size, size), Image.Resampling.BICUBIC
        )
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(127.5).sub(1)


@dataclass(frozen=True)
class Probe:
    """A linear probe: rating = z_i · weights + bias."""

    weights: Tensor  # [D]
    bias: float
    alpha: float  # penalty

    def __call__(self, z_i: Tensor) -> Tensor:
        """Return ratings `[N]` of embeddings `[N, D]`."""
        return z_i.double().cpu() @ self.weights + self.bias


def fit(z_i: Tensor, ratings: Tensor) -> Probe:
    """Fit `[N]` ratings to `[N, D]` embeddings by ridge regression.

    The penalty is the best one of ALPHAS by leave-one-out cross-validation, which has a closed form
    (Golub, Heath & Wahba 1979)."""
    x = z_i.double().cpu()
    y = ratings.double().cpu()
    middle = x.mean(0)
    mean = y.mean()
    u, singular, vt = torch.linalg.svd(x - middle, full_matrices=False)
    best: tuple[float, float] | None = None
    for alpha in ALPHAS:
        shrunk = singular.square() / (singular.square() + alpha)
        # The mean is fitted too, which adds 1/N to each image's leverage.
        leverage = (u.square() * shrunk).sum(1) + 1 / len(x)
        residual = (y - mean) - u @ (shrunk * (u.T @ (y - mean)))
        error = float((residual / (1 - leverage).clamp(min=1e-9)).square().mean())
        if best is None or error < best[0]:
            best = error, alpha
    assert best is not None
    weights = vt.T @ (singular / (singular.square() + best[1]) * (u.T @ (y - mean)))
    return Probe(weights, float(mean - middle @ weights), best[1])


@dataclass(frozen=True)
class FittedProbe:
    """A probe, and the correlations of its ratings with those held out."""

    probe: Probe
    held_out: int
    pearson: float
    spearman: float


def fit_and_test(z_i: Tensor, ratings: Tensor, seed: int = 0) -> FittedProbe:
    """Fit a probe and test it on one image in HELD_OUT, chosen at random.

    Raises ValueError for fewer than ten ratings."""
    if len(z_i) < 10:
        raise ValueError(
            f"{len(z_i)} ratings are too few: at least 10 are needed, some hundreds to be useful"
        )
    order = torch.randperm(len(z_i), generator=torch.Generator().manual_seed(seed))
    test = order[: len(order) // HELD_OUT]
    train = order[len(order) // HELD_OUT :]
    probe = fit(z_i[train], ratings[train])
    predicted = probe(z_i[test])
    true = ratings[test]
    return FittedProbe(probe, len(test), pearson(predicted, true), spearman(predicted, true))


@torch.inference_mode()
def main() -> None:
    """Fit a probe to a file of ratings, test it, and rate the images of a folder."""
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluation.aesthetics", description=main.__doc__
    )
    parser.add_argument(
        "ratings", type=Path, help="CSV with the columns path, and rating or 1 to 10"
    )
    parser.add_argument(
        "--rate", type=Path, default=None, help="folder of images to rate, best first"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=None,
        help="checkpoint folder (default: the bundled one)",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    pipeline = UnCLIP.load(arguments.checkpoint, arguments.device)
    rated = read_ratings(arguments.ratings)
    fitted = fit_and_test(
        _embed_files(pipeline, [rating.path for rating in rated]),
        torch.tensor([rating.value for rating in rated]),
    )
    print(
        f"{len(rated)} ratings, {fitted.held_out} of them held out: "
        f"Pearson {fitted.pearson:.3f}, Spearman {fitted.spearman:.3f}"
    )
    if arguments.rate:
        paths = sorted(
            path for path in arguments.rate.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES
        )
        scores = fitted.probe(_embed_files(pipeline, paths))
        for score, path in sorted(zip(scores.tolist(), paths, strict=True), reverse=True):
            print(f"{score:6.2f}  {path.name}")


def _embed_files(pipeline: UnCLIP, paths: list[Path]) -> Tensor:
    size = pipeline.clip.image_size
    batches = [
        torch.stack([open_image(path, size) for path in paths[start : start + 64]])
        for start in range(0, len(paths), 64)
    ]
    return torch.cat(
        [pipeline.clip.encode_image(batch.to(pipeline.device)).cpu() for batch in batches]
    )


if __name__ == "__main__":
    main()
