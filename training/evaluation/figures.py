"""What pages and reports are made of: tables and numbers in Markdown, plots and sheets of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from training.evaluation.metrics import Estimate

DPI = 100  # of sheets of images


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def percent(estimate: Estimate) -> str:
    """A share with its interval: "32 (27 to 37)"."""
    return number(Estimate(*(100 * v for v in (estimate.value, estimate.low, estimate.high))), 0)


def number(estimate: Estimate, digits: int, scale: float = 1.0) -> str:
    """A value with its interval."""
    value, low, high = (
        f"{v * scale + 0.0:.{digits}f}" for v in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} ({low} to {high})"


def wrapped(text: str, width: int = 20) -> str:
    """Broken into short lines."""
    lines = [""]
    for word in text.split():
        lines = (
            [*lines[:-1], f"{lines[-1]} {word}".strip()]
            if len(lines[-1]) + len(word) < width
            else [*lines, word]
        )
    return "\n".join(lines)


def plot_module() -> Any:
    """pyplot, drawing into files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def sheet(
    rows: Sequence[Tensor],
    path: Path,
    *,
    under: Sequence[Sequence[str]] = (),
    left: Sequence[str] = (),
    above: Sequence[str] = (),
    inches: float = 1.15,
) -> None:
    """Rows of images `[N, 3, s, s]` as one figure, so many inches an image, with words under each, left of each row and above
    each column."""
    pyplot = plot_module()
    columns = max(len(row) for row in rows)
    words = max((line.count("\n") + 1 for row in under for line in row), default=0)
    size = (
        inches * columns + (0.9 if left else 0),
        (inches + 0.14 * words) * len(rows) + (0.2 if above else 0),
    )
    figure, cells = pyplot.subplots(
        len(rows), columns, figsize=size, layout="constrained", squeeze=False
    )
    smooth = "antialiased" if rows[0].shape[-1] > DPI * inches else "nearest"
    for r, row in enumerate(rows):
        for c, cell in enumerate(cells[r]):
            cell.set(xticks=[], yticks=[])
            if c >= len(row):
                cell.set_visible(False)
                continue
            cell.imshow(
                row[c].cpu().add(1).div(2).clamp(0, 1).permute(1, 2, 0).numpy(),
                interpolation=smooth,
            )
            if under:
                cell.set_xlabel(under[r][c], fontsize=6, labelpad=2)
            if above and r == 0:
                cell.set_title(above[c], fontsize=7, pad=3)
            if left and c == 0:
                cell.set_ylabel(left[r], fontsize=7, rotation=0, ha="right", va="center")
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write a figure, images as JPEG, lines as PNG, and let it go."""
    if path.suffix == ".jpg":
        figure.savefig(path, dpi=DPI, pil_kwargs={"quality": 85})
    else:
        figure.savefig(path, dpi=90)
    plot_module().close(figure)
