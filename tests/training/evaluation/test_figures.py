"""Markdown of reports: tables and prose fit into 100 columns."""

from __future__ import annotations

from training.evaluation.figures import (
    format_estimate,
    format_percent,
    markdown_table,
    wrap,
    wrap_markdown,
)
from training.evaluation.metrics import Estimate


def test_a_wide_table_is_split() -> None:
    """Each part has the first column, and all columns appear once."""
    heads = ["name", *(f"column {k}" * 2 for k in range(6))]
    rows = [["a", *map(str, range(6))], ["b", *map(str, range(6, 12))]]
    text = markdown_table(heads, rows)
    parts = text.split("\n\n")
    assert len(parts) == 2
    assert all(len(line) <= 100 for line in text.split("\n"))
    assert all(part.startswith("| name | ") for part in parts)
    for head in heads[1:]:
        assert text.count(f"| {head} |") == 1


def test_prose_is_wrapped_and_tables_are_not() -> None:
    """List items keep their indentation."""
    words = " ".join(["word"] * 30)
    table = f"| {words} |"
    lines = wrap_markdown(f"{words}\n- {words}\n{table}").split("\n")
    assert max(map(len, lines[:-1])) <= 100
    assert lines[3].startswith("  word")
    assert lines[-1] == table


def test_numbers_have_their_intervals() -> None:
    """Shares are in per cent."""
    estimate = Estimate(0.321, 0.27, 0.37)
    assert format_percent(estimate) == "32 (27 to 37)"
    assert format_estimate(estimate, 2, 10) == "3.21 (2.70 to 3.70)"


def test_labels_are_broken_between_words() -> None:
    """Lines stay below the width."""
    assert wrap("a red cube on top of a blue cube", 12) == "a red cube\non top of a\nblue cube"
