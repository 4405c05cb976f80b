"""Limits on the documents that CONTRIBUTING.md sets: size, columns and sentences."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest
from support.documents import ROOT, markdown_files, sentence_lengths, written_files

MAX_README_BYTES = 7 * 1024
MAX_COLUMNS = 100
MAX_MEDIAN_WORDS = 15
MIN_SENTENCES = 5


def name_of(path: Path) -> str:
    """Return a path as it appears in a test's id."""
    return str(path.relative_to(ROOT))


def test_readme_is_short() -> None:
    """The README fits into 7 kB; everything else is in docs/."""
    assert len((ROOT / "README.md").read_bytes()) <= MAX_README_BYTES


@pytest.mark.parametrize("path", markdown_files(), ids=name_of)
def test_lines_fit(path: Path) -> None:
    """No line of a document has more than 100 columns."""
    long = [
        number
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > MAX_COLUMNS
    ]
    assert long == []


@pytest.mark.parametrize("path", written_files(), ids=name_of)
def test_sentences_are_short(path: Path) -> None:
    """The median sentence of a document has at most 15 words."""
    lengths = sentence_lengths(path.read_text())
    assert len(lengths) < MIN_SENTENCES or median(lengths) <= MAX_MEDIAN_WORDS
