"""What every experiment is given, and what its part of the page is made of: tables, verdicts, figures."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from models import UnCLIP
from training.measures import Estimate
from training.reader import Reader

FIGURES = "findings"  # folder of the page's figures


@dataclass(frozen=True)
class Bench:
    """A checkpoint, the scene reader that judges it, and the folder of the page."""

    stack: UnCLIP
    reader: Reader
    out: Path
    mix: str = "objects"

    @property
    def decoder_checksum(self) -> str:
        """Tells one decoder from another: eight hexadecimal digits of its weights."""
        found = 0
        for value in self.stack.decoder.state_dict().values():
            found = zlib.crc32(value.float().cpu().numpy().tobytes(), found)
        return f"{found:08x}"

    def figure(self, name: str) -> Path:
        """Where a figure goes; its folder is made."""
        path = self.out / FIGURES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def embedded(name: str, shown: str) -> str:
    """A figure in Markdown, with what it shows in words."""
    return f"![{shown}]({FIGURES}/{name})"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def percent(estimate: Estimate) -> str:
    """A share with its interval: "32 (27 to 37)"."""
    return number(Estimate(*(100 * v for v in (estimate.value, estimate.low, estimate.high))), 0)


def number(estimate: Estimate, digits: int, scale: float = 1.0) -> str:
    """A value with its interval."""
    value, low, high = (f"{v * scale + 0.0:.{digits}f}" for v in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high})"


def below(less: Estimate, more: Estimate) -> bool | None:
    """Whether `less` is below `more`; None where their intervals meet, and it cannot be told."""
    return less.value < more.value if less.apart(more) else None


def verdict(holds: bool | None, claim: str) -> str:
    """A finding of the paper's and whether this run has it too, as an item of a list."""
    opening = {True: "As in the paper", False: "Not as in the paper", None: "Not told apart at this count"}[holds]
    return f"- **{opening}:** {claim}"


def plot_module() -> Any:
    """pyplot, drawing into files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def sheet(
    rows: Sequence[Tensor], path: Path, *, under: Sequence[Sequence[str]] = (), left: Sequence[str] = (), above: Sequence[str] = ()
) -> None:
    """Rows of pictures `[N, 3, s, s]` as one figure, with words under each picture, left of each row and above each column."""
    pyplot = plot_module()
    columns = max(len(row) for row in rows)
    words = max((line.count("\n") + 1 for row in under for line in row), default=0)
    size = (1.15 * columns + (0.9 if left else 0), (1.15 + 0.14 * words) * len(rows) + (0.2 if above else 0))
    figure, cells = pyplot.subplots(len(rows), columns, figsize=size, layout="constrained", squeeze=False)
    for r, row in enumerate(rows):
        for c, cell in enumerate(cells[r]):
            cell.set(xticks=[], yticks=[])
            if c >= len(row):
                cell.set_visible(False)
                continue
            cell.imshow(row[c].cpu().add(1).div(2).clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
            if under:
                cell.set_xlabel(under[r][c], fontsize=6, labelpad=2)
            if above and r == 0:
                cell.set_title(above[c], fontsize=7, pad=3)
            if left and c == 0:
                cell.set_ylabel(left[r], fontsize=7, rotation=0, ha="right", va="center")
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write a figure, pictures as JPEG, lines as PNG, and let it go."""
    if path.suffix == ".jpg":
        figure.savefig(path, dpi=100, pil_kwargs={"quality": 85})
    else:
        figure.savefig(path, dpi=90)
    plot_module().close(figure)
