"""The findings page: one part for each experiment, which can be measured again separately."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from training.evaluation.figures import markdown_table, wrap_markdown

PAGE = "findings.md"  # in the folder of --out
HEAD = """# Findings

The experiments of the unCLIP paper ([Ramesh et al. 2022](https://arxiv.org/abs/2204.06125)) in
miniature, on synthetic scenes, where the content of an image can be counted. Images are of 64².

- "Right" means that the scene classifier finds in an image all that its caption says: kind,
  colours, shapes, relation, count.
- "Renderings" are the scenes of the captions themselves. They show how accurate the classifier is,
  and the upper limit.
- Captions are held out from training unless a part says otherwise.
- Intervals, in brackets or as bars, are of 95 %. Two figures differ if their intervals do not
  overlap.

`python -m training.experiments all` writes this page, or a part by its name. The line below a
heading names the checkpoint that was measured.
"""
VERDICTS = ("As in the paper", "Not as in the paper", "Inconclusive at this count")
_PART = re.compile(r"<!-- (\S+) -->\n(.*?)(?=<!-- \S+ -->\n|\Z)", re.DOTALL)


def parse_parts(text: str) -> dict[str, str]:
    """Return a page's parts by name, in its order."""
    return {name: body.strip() for name, body in _PART.findall(text)}


def summarize(parts: dict[str, str]) -> str:
    """Return a table of how many claims hold, do not, or are open, counted from the sentences."""
    rows = []
    for body in parts.values():
        counts = [
            len(re.findall(rf"^- \*\*{verdict}\b", body, re.MULTILINE)) for verdict in VERDICTS
        ]
        if any(counts):
            rows.append([body.splitlines()[0].removeprefix("## "), *map(str, counts)])
    if not rows:
        return ""
    heads = ["claims, counted", *(verdict.lower() for verdict in VERDICTS)]
    return f"{markdown_table(heads, rows)}\n"


def write_part(path: Path, name: str, body: str, order: Sequence[str]) -> None:
    """Replace a part of the page. Parts are in `order`; those with other names are removed."""
    parts = parse_parts(path.read_text()) if path.exists() else {}
    parts[name] = wrap_markdown(body.strip())
    ordered = {part: parts[part] for part in order if part in parts}
    marked = (f"<!-- {part} -->\n{text}\n" for part, text in ordered.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([HEAD, summarize(ordered), *marked]))
