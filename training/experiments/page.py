"""docs/findings.md: one page, of one part an experiment, each of which can be measured anew by itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

HEAD = """# Findings

The experiments of the unCLIP paper ([Ramesh et al. 2022](https://arxiv.org/abs/2204.06125)) in miniature, on the drawn world, where what a
picture shows can be counted. Pictures are of 64². "Right" is what the scene reader finds in a picture of all that its caption says of
things (kind, colours, shapes, relation, count); "the drawings" are the captions' own scenes, so that what the reader is worth, and the
upper limit, stand beside. Captions are ones that training never read. Intervals, in brackets or as bars, are of 95 %.

All of it is written by `python -m training.experiments all`, or part by part; the checkpoint that a part was measured on stands under its
heading, and the sentences follow the numbers.
"""
_PART = re.compile(r"<!-- (\S+) -->\n(.*?)(?=<!-- \S+ -->\n|\Z)", re.DOTALL)


def parts(text: str) -> dict[str, str]:
    """A page's parts by name, in its order."""
    return {name: body.strip() for name, body in _PART.findall(text)}


def write(path: Path, name: str, body: str, order: Sequence[str]) -> None:
    """Put a part into the page in place of what it said there; parts stand in `order`, and others are dropped."""
    found = parts(path.read_text()) if path.exists() else {}
    found[name] = body.strip()
    text = "\n".join([HEAD, *(f"<!-- {part} -->\n{found[part]}\n" for part in order if part in found)])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
