"""Parts of reports: Markdown tables and numbers, plots and sheets of images."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from training.evaluation.metrics import Estimate

MAX_COLUMNS = 100  # of Markdown
SHEET_DPI = 100
PLOT_DPI = 90


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table without a trailing newline.

    A table wider than MAX_COLUMNS becomes several, each with the first column."""
    tables = []
    columns = [0]
    for column in range(1, len(heads)):
        lines = _format_lines(heads, rows, [*columns, column])
        if max(map(len, lines)) > MAX_COLUMNS and len(columns) > 1:
            tables.append(_format_lines(heads, rows, columns))
            columns = [0]
        columns.append(column)
    tables.append(_format_lines(heads, rows, columns))
    return "\n\n".join("\n".join(lines) for lines in tables)


def _format_lines(
    heads: Sequence[str], rows: Sequence[Sequence[str]], columns: Sequence[int]
) -> list[str]:
    lines = (heads, ["---"] * len(heads), *rows)
    return [f"| {' | '.join(cells[column] for column in columns)} |" for cells in lines]


def wrap_markdown(text: str) -> str:
    """Break the prose of a Markdown text at MAX_COLUMNS; tables, headings and figures stay."""
    return "\n".join(map(_wrap_line, text.split("\n")))


def _wrap_line(line: str) -> str:
    if len(line) <= MAX_COLUMNS or line.startswith(("|", "!", "#", "<", "```")):
        return line
    indent = "  " if line.startswith("- ") else ""
    return textwrap.fill(
        line,
        MAX_COLUMNS,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def format_percent(estimate: Estimate) -> str:
    """Return a share and its interval in per cent: "32 (27 to 37)"."""
    values = (estimate.value, estimate.low, estimate.high)
    return format_estimate(Estimate(*(100 * value for value in values)), 0)


def format_estimate(estimate: Estimate, digits: int, scale: float = 1.0) -> str:
    """Return a value and its interval, multiplied by `scale`."""
    value, low, high = (
        f"{number * scale + 0.0:.{digits}f}"
        for number in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} ({low} to {high})"


def wrap(text: str, width: int = 20) -> str:
    """Break a text into lines of less than `width` characters."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) < width:
            lines[-1] = f"{lines[-1]} {word}".strip()
        else:
            lines.append(word)
    return "\n".join(lines)


def load_pyplot() -> Any:
    """Return matplotlib's pyplot with a backend that writes files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def save_sheet(
    rows: Sequence[Tensor],
    path: Path,
    *,
    under: Sequence[Sequence[str]] = (),
    left: Sequence[str] = (),
    above: Sequence[str] = (),
    inches: float = 1.15,
) -> None:
    """Save rows of images `[N, 3, s, s]` as one figure, `inches` an image.

    `under` has a text for each image, `left` for each row, `above` for each column."""
    pyplot = load_pyplot()
    columns = max(len(row) for row in rows)
    text_lines = max((text.count("\n") + 1 for row in under for text in row), default=0)
    size = (
        inches * columns + (0.9 if left else 0),
        (inches + 0.14 * text_lines) * len(rows) + (0.2 if above else 0),
    )
    figure, cells = pyplot.subplots(
        len(rows), columns, figsize=size, layout="constrained", squeeze=False
    )
    interpolation = "antialiased" if rows[0].shape[-1] > SHEET_DPI * inches else "nearest"
    for r, row in enumerate(rows):
        for c, cell in enumerate(cells[r]):
            cell.set(xticks=[], yticks=[])
            if c >= len(row):
                cell.set_visible(False)
                continue
            image = row[c].cpu().add(1).div(2).clamp(0, 1).permute(1, 2, 0).numpy()
            cell.imshow(image, interpolation=interpolation)
            if under:
                cell.set_xlabel(under[r][c], fontsize=6, labelpad=2)
            if above and r == 0:
                cell.set_title(above[c], fontsize=7, pad=3)
            if left and c == 0:
                cell.set_ylabel(left[r], fontsize=7, rotation=0, ha="right", va="center")
    save_figure(figure, path)


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure and close it. The suffix .jpg is for images, .png for plots."""
    if path.suffix == ".jpg":
        figure.savefig(path, dpi=SHEET_DPI, pil_kwargs={"quality": 85})
    else:
        figure.savefig(path, dpi=PLOT_DPI)
    load_pyplot().close(figure)
