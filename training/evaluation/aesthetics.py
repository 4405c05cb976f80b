"""`python -m training.evaluation.aesthetics ratings.csv`: a linear probe that foretells what people would rate an image, from its CLIP embedding.

As the paper's aesthetic measure (§5.4): ridge regression of z_i on mean ratings. The ratings are a CSV in the form of AVA (Murray
et al. 2012): a column `path` (from the CSV's folder), and either `rating`, the mean, or `1` to `10`, how many people gave that.
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
HELD_OUT = 5  # one image in so many


@dataclass(frozen=True)
class Rating:
    """An image and its mean rating."""

    path: Path
    value: float


def read_ratings(file: Path) -> list[Rating]:
    """A CSV of ratings. ValueError that names the line for what cannot be one."""
    found = []
    with file.open(newline="", encoding="utf-8-sig") as lines:
        rows = csv.DictReader(lines)
        heads = rows.fieldnames or []
        if "path" not in heads or not ("rating" in heads or set(COUNTS) <= set(heads)):
            raise ValueError(
                f"{file} has the columns {', '.join(heads)}: it needs path, and either rating or 1 to 10"
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
                    f"{file}, line {number}: {row} has no rating: give a number, or at least one count above 0"
                ) from error
            found.append(Rating(file.parent / row["path"], value))
    return found


def _mean_of_counts(counts: list[float]) -> float:
    return sum(score * count for score, count in enumerate(counts, start=1)) / sum(counts)


def open_image(path: Path, size: int) -> Tensor:
    """The middle square of an image file, turned upright, `[3, size, size]` in [-1, 1]."""
    with Image.open(path) as file:
        image = ImageOps.fit(
            ImageOps.exif_transpose(file).convert("RGB"), (size, size), Image.Resampling.BICUBIC
        )
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(127.5).sub(1)


@dataclass(frozen=True)
class Probe:
    """rating = z_i · weights + bias."""

    weights: Tensor  # [D]
    bias: float
    alpha: float

    def __call__(self, z_i: Tensor) -> Tensor:
        """Embeddings `[N, D]` -> ratings `[N]`."""
        return z_i.double().cpu() @ self.weights + self.bias


def fit(z_i: Tensor, ratings: Tensor) -> Probe:
    """Ridge regression of `[N]` ratings on `[N, D]` embeddings, its penalty the one of ALPHAS that foretells each rating from the
    others best: leaving one out has a closed form (Golub, Heath & Wahba 1979)."""
    x = z_i.double().cpu()
    y = ratings.double().cpu()
    middle = x.mean(0)
    mean = y.mean()
    u, singular, vt = torch.linalg.svd(x - middle, full_matrices=False)
    best: tuple[float, float] | None = None
    for alpha in ALPHAS:
        shrunk = singular.square() / (singular.square() + alpha)
        # The mean, too, is fitted: it takes 1/N of each image's leverage.
        leverage = (u.square() * shrunk).sum(1) + 1 / len(x)
        residual = (y - mean) - u @ (shrunk * (u.T @ (y - mean)))
        error = float((residual / (1 - leverage).clamp(min=1e-9)).square().mean())
        if best is None or error < best[0]:
            best = error, alpha
    assert best is not None
    weights = vt.T @ (singular / (singular.square() + best[1]) * (u.T @ (y - mean)))
    return Probe(weights, float(mean - middle @ weights), best[1])


@dataclass(frozen=True)
class Fitted:
    """A probe, fitted on four fifths, and how well it foretells the ratings of the last fifth."""

    probe: Probe
    held_out: int
    pearson: float
    spearman: float


def fit_and_test(z_i: Tensor, ratings: Tensor, seed: int = 0) -> Fitted:
    """Hold out one image in HELD_OUT, at random. ValueError for fewer than ten."""
    if len(z_i) < 10:
        raise ValueError(
            f"there are {len(z_i)} ratings: at least 10 are needed, and some hundreds to mean much"
        )
    order = torch.randperm(len(z_i), generator=torch.Generator().manual_seed(seed))
    test = order[: len(order) // HELD_OUT]
    train = order[len(order) // HELD_OUT :]
    probe = fit(z_i[train], ratings[train])
    said = probe(z_i[test])
    true = ratings[test]
    return Fitted(probe, len(test), pearson(said, true), spearman(said, true))


@torch.inference_mode()
def main() -> None:
    """Fit a probe to a file of ratings, say how well it does on those held out, and rate the images of a folder."""
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluation.aesthetics", description=main.__doc__
    )
    parser.add_argument(
        "ratings", type=Path, help="CSV with the columns path, and rating or 1 to 10"
    )
    parser.add_argument(
        "--rate", type=Path, default=None, help="a folder of images to rate, best first"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=None,
        help="checkpoint folder (default: the embedded one)",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    pipeline = UnCLIP.load(arguments.checkpoint, arguments.device)
    rated = read_ratings(arguments.ratings)
    found = fit_and_test(
        _embedded(pipeline, [rating.path for rating in rated]),
        torch.tensor([rating.value for rating in rated]),
    )
    print(
        f"{len(rated)} ratings, of {found.held_out} held out: Pearson {found.pearson:.3f}, Spearman {found.spearman:.3f}"
    )
    if arguments.rate:
        paths = sorted(
            path
            for path in arguments.rate.iterdir()
            if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")
        )
        scores = found.probe(_embedded(pipeline, paths))
        for score, path in sorted(zip(scores.tolist(), paths, strict=True), reverse=True):
            print(f"{score:6.2f}  {path.name}")


def _embedded(pipeline: UnCLIP, paths: list[Path]) -> Tensor:
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
