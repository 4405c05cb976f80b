"""A run's loss curve: a CSV with one line a step, and its plot."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from torch import Tensor


def read_curve(path: Path, steps: int) -> list[Tensor]:
    """Return the losses of the first `steps` steps, none if there is no file."""
    if not path.exists():
        return []
    with path.open() as file:
        return [torch.tensor(float(row["loss"])) for row in csv.DictReader(file)][:steps]


def write_curve(path: Path, curve: list[Tensor]) -> None:
    """Write one line a step, with enough digits to read the same number again."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("step", "loss"))
        writer.writerows((step, repr(float(value))) for step, value in enumerate(curve))


def plot_curve(path: Path) -> None:
    """Plot a loss curve's CSV as a PNG of the same name, raw and smoothed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with path.open() as file:
        losses = torch.tensor([float(row["loss"]) for row in csv.DictReader(file)])
    window = max(1, len(losses) // 100)
    smooth = losses[: len(losses) // window * window].view(-1, window).mean(1)
    figure, axes = pyplot.subplots(figsize=(7, 4))
    axes.plot(losses, alpha=0.25, linewidth=0.5)
    axes.plot(torch.arange(len(smooth)) * window + window / 2, smooth)
    axes.set(title=path.stem, xlabel="step", ylabel="loss", yscale="log")
    figure.savefig(path.with_suffix(".png"), dpi=90)
    pyplot.close(figure)
