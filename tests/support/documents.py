"""Markdown files of the project: their text, prose, sentences and runnable blocks."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^(```+|~~~+)[^\n]*\n.*?^\1$", re.MULTILINE | re.DOTALL)
_RUNNABLE = re.compile(
    r"^<!-- runnable(?:: exit (\d+))? -->\n```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
# Lines that hold no sentence: headings, table rows, images, directives and definition terms.
_NOT_PROSE = re.compile(r"^\s*(#|\||!\[|:::|<!--|\*\*[^*]+\*\*\s*$|\[!\[)")
_LIST_ITEM = re.compile(r"^\s*(?:[-*]|\d+\.|:)\s+")


@dataclass(frozen=True)
class Block:
    """A code block that a reader can run as it is."""

    language: str
    code: str
    exit_status: int


def markdown_files() -> list[Path]:
    """Return all Markdown files of the repository, tracked or new."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", "*.md"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(ROOT / line for line in set(output.splitlines()) if (ROOT / line).is_file())


def written_files() -> list[Path]:
    """Return the Markdown files that people write; programs write cards and reports."""
    generated = {"docs/findings.md", "docs/evaluation/report.md"}
    return [
        path
        for path in markdown_files()
        if str(path.relative_to(ROOT)) not in generated and path.name != "CARD.md"
    ]


def runnable_blocks(text: str) -> list[Block]:
    """Return the blocks that follow a `runnable` comment."""
    return [
        Block(language, code, int(status or 0))
        for status, language, code in _RUNNABLE.findall(text)
    ]


def sentence_lengths(text: str) -> list[int]:
    """Return the number of words of each sentence, without code, tables and headings."""
    return [
        len(words)
        for paragraph in _paragraphs(_FENCE.sub("", text))
        for sentence in re.split(r"(?<=[.!?])\s+", paragraph)
        if len(words := re.findall(r"[\w'’²½.,/`-]*\w[\w'’²`-]*", sentence)) > 1
    ]


def _paragraphs(text: str) -> Iterator[str]:
    """Yield paragraphs and list items, each as one line."""
    lines: list[str] = []
    for line in [*text.splitlines(), ""]:
        starts_new = not line.strip() or _NOT_PROSE.match(line) or _LIST_ITEM.match(line)
        if starts_new and lines:
            yield " ".join(lines)
            lines = []
        if line.strip() and not _NOT_PROSE.match(line):
            lines.append(_LIST_ITEM.sub("", line).strip())
