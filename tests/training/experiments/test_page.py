"""The findings page: parts are replaced one by one, and its verdicts are counted."""

from __future__ import annotations

from pathlib import Path

from training.experiments import __main__, page
from training.experiments.harness import format_verdict

FINDINGS = Path(__file__).parents[3] / __main__.OUT / page.PAGE


def test_a_part_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    """Parts that belong to no experiment are removed."""
    file = tmp_path / "findings.md"
    for name, body in (("b", "two"), ("a", "one"), ("old", "gone"), ("b", "three")):
        page.write_part(file, name, body, ["a", "b", "old"])
    page.write_part(file, "a", "one", ["a", "b"])
    assert page.parse_parts(file.read_text()) == {"a": "one", "b": "three"}
    assert file.read_text().startswith("# Findings")


def test_verdicts_are_counted() -> None:
    """Claims that the paper does not make are left out, and parts without claims."""
    lines = [
        format_verdict(True, "x"),
        format_verdict(True, "y"),
        format_verdict(False, "z"),
        format_verdict(None, "u"),
        format_verdict(True, "v", is_papers=False),
    ]
    body = "\n".join(lines)
    table = page.summarize({"a": f"## A\n\n{body}", "b": "## B"})
    assert table.splitlines()[2:] == ["| A | 2 | 1 | 1 |"]


def test_the_committed_page_is_of_this_form() -> None:
    """Its head and summary are what the code writes, and each part has its experiment."""
    text = FINDINGS.read_text()
    parts = page.parse_parts(text)
    assert text.startswith(page.HEAD)
    assert page.summarize(parts) in text
    assert list(parts) == list(__main__.EXPERIMENTS)
    for name, body in parts.items():
        assert body.startswith(f"## {__main__.EXPERIMENTS[name].title}\n")
