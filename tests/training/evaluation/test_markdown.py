"""Generated Markdown fits into 100 columns."""

from __future__ import annotations

from training.evaluation.markdown import fit_columns


def test_a_wide_table_is_split_by_its_columns() -> None:
    """Each part repeats the first column and fits."""
    heads = ["name", *(f"a long heading, number {index}" for index in range(5))]
    rows = [heads, ["---"] * 6, ["row", *map(str, range(5))]]
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    tables = fit_columns(text).strip().split("\n\n")
    assert [table.splitlines()[2] for table in tables] == [
        "| row | 0 | 1 | 2 |",
        "| row | 3 | 4 |",
    ]
    assert max(len(line) for table in tables for line in table.splitlines()) <= 100


def test_a_long_list_item_is_wrapped_and_indented() -> None:
    """A list item stays one item."""
    lines = fit_columns("- **Claim:** " + "word " * 40).splitlines()
    assert max(map(len, lines)) <= 100
    assert all(line.startswith("  word") for line in lines[1:])


def test_what_fits_stays_as_it_is() -> None:
    """Headings, images and short blocks are not changed."""
    text = f"# Title\n\nShort.\n\n| a | b |\n| --- | --- |\n\n![{'long ' * 30}](image.png)\n"
    assert fit_columns(text) == text
