"""Fit generated Markdown into a number of columns."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence

MAX_COLUMNS = 100
_LIST_ITEM = re.compile(r"\s*(?:[-*]|\d+\.)\s+")
# Blocks that cannot be wrapped: headings, comments, images and code.
_FIXED = ("#", "<!--", "![", "```")


def fit_columns(text: str, columns: int = MAX_COLUMNS) -> str:
    """Wrap paragraphs, and split tables that are too wide by their columns.

    Each part of a split table repeats the first column. Headings, images and code stay as they are.
    """
    blocks = re.split(r"\n{2,}", text.strip("\n"))
    return "\n\n".join(_fit_block(block, columns) for block in blocks) + "\n"


def _fit_block(block: str, columns: int) -> str:
    lines = block.splitlines()
    if all(len(line) <= columns for line in lines):
        return block
    if lines[0].startswith("|"):
        return "\n\n".join(_split_table([_cells(line) for line in lines], columns))
    return "\n".join(_wrap_lines(lines, columns))


def _wrap_lines(lines: Sequence[str], columns: int) -> Iterator[str]:
    for line in lines:
        if len(line) <= columns or line.startswith(_FIXED):
            yield line
            continue
        match = _LIST_ITEM.match(line)
        yield from textwrap.wrap(
            line,
            columns,
            subsequent_indent=" " * (match.end() if match else 0),
            break_long_words=False,
            break_on_hyphens=False,
        )


def _split_table(rows: Sequence[Sequence[str]], columns: int) -> Iterator[str]:
    """Yield tables with as many columns as fit, at least two, of which the first is repeated."""
    start = 1
    while start < len(rows[0]):
        stop = start + 1
        while stop < len(rows[0]) and _width(rows, [0, *range(start, stop + 1)]) <= columns:
            stop += 1
        yield "\n".join(_line(row, [0, *range(start, stop)]) for row in rows)
        start = stop


def _width(rows: Sequence[Sequence[str]], indices: Sequence[int]) -> int:
    return max(len(_line(row, indices)) for row in rows)


def _line(row: Sequence[str], indices: Sequence[int]) -> str:
    return f"| {' | '.join(row[index] for index in indices)} |"


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")]
