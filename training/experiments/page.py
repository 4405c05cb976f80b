"""docs/findings.md: one page, of one part an experiment, each of which can be measured anew by itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from training.evaluation.figures import table

HEAD = """# Findings

The experiments of the unCLIP paper ([Ramesh et al. 2022](https://arxiv.org/abs/2204.06125)) in miniature, on the drawn world, where what a
image shows can be counted. Images are of 64². "Right" is what the scene reader finds in an image of all that its caption says of
things (kind, colours, shapes, relation, count); "the drawings" are the captions' own scenes, so that what the reader is worth, and the
upper limit, stand beside. Where nothing else is said captions are ones that training never read. Intervals, in brackets or as bars, are of
95 %; two figures count as different where theirs do not meet.

All of it is written by `python -m training.experiments all`, or part by part; the checkpoint that a part was measured on stands under its
heading, and the sentences follow the numbers.
"""
VERDICTS = ("As in the paper", "Not as in the paper", "Not told apart at this count")
_PART = re.compile(r"<!-- (\S+) -->\n(.*?)(?=<!-- \S+ -->\n|\Z)", re.DOTALL)


def parts(text: str) -> dict[str, str]:
    """A page's parts by name, in its order."""
    return {name: body.strip() for name, body in _PART.findall(text)}


def summary(found: dict[str, str]) -> str:
    """How many of the paper's claims each part bears out, contradicts and cannot tell: counted from its own sentences."""
    rows = []
    for said in found.values():
        counts = [
            len(re.findall(rf"^- \*\*{verdict}\b", said, re.MULTILINE)) for verdict in VERDICTS
        ]
        if any(counts):
            rows.append([said.splitlines()[0].removeprefix("## "), *map(str, counts)])
    return (
        f"{table(['claims, counted', *(verdict.lower() for verdict in VERDICTS)], rows)}\n"
        if rows
        else ""
    )


def write(path: Path, name: str, body: str, order: Sequence[str]) -> None:
    """Put a part into the page in place of what it said there; parts stand in `order`, and others are dropped."""
    found = parts(path.read_text()) if path.exists() else {}
    found[name] = body.strip()
    kept = {part: found[part] for part in order if part in found}
    text = "\n".join(
        [HEAD, summary(kept), *(f"<!-- {part} -->\n{said}\n" for part, said in kept.items())]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
