"""Tables of a report."""

from __future__ import annotations

from training.evaluation.solids import report


def test_claims_are_summed_over_caption_types() -> None:
    """A claim counts in all CAPTION_TYPES that make it; details are separate captions."""
    questions = ("core", "all", "checked", "place")
    counts = {question: {"right": 1, "total": 2} for question in questions}
    modes = {"prior": counts, "renderings": counts | {"place": {"right": 2, "total": 2}}}
    types = dict.fromkeys(("one object", "count", "style"), modes)
    tables = report.format_card_tables({"caption types": types})
    assert "| place | 4 | 50.0 % | 100.0 % |" in tables
    assert "| count | 2 | 50.0 % | 50.0 % | 50.0 % | 50.0 % |" in tables
