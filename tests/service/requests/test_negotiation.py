"""Prefer and Accept headers."""

from __future__ import annotations

import pytest

from service.requests.negotiation import wait_seconds, wants_png


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ([], None),
        (["wait=5"], 5),
        (["WAIT = 5"], 5),
        (['wait="5"'], 5),
        (["wait=2.5"], 2.5),
        (["wait=0"], 0),
        (["wait=500"], 60),
        (["respond-async, wait=5"], 5),
        (["wait=5; foo=bar, handling=lenient"], 5),
        (["respond-async", "wait=5"], 5),
        (["wait=5", "wait=9"], 5),
        (["respond-async"], None),
        (["wait"], None),
        (["wait="], None),
        (["wait=soon"], None),
        (["wait=-1"], None),
        (["wait=nan"], None),
        (["wait=inf"], None),
        (["await=5"], None),
        ([",;=,"], None),
    ],
)
def test_the_wait_follows_rfc_7240(prefer: list[str], seconds: float | None) -> None:
    """The first wait of all headers counts, up to a limit; an invalid one is ignored."""
    assert wait_seconds(prefer, 60) == seconds


@pytest.mark.parametrize(
    ("accept", "png"),
    [
        ([], False),
        (["*/*"], False),
        (["application/json"], False),
        (["image/png"], True),
        (["IMAGE/PNG"], True),
        (["image/*"], True),
        (["image/png, application/json"], False),
        (["image/png, application/json;q=0.9"], True),
        (["image/png;q=0.1, application/json;q=0.2"], False),
        (["image/png;q=0"], False),
        (["text/html", "image/png"], True),
        (["image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5"], True),
        (["image/png;q=high"], False),
        (["image/jpeg"], False),
    ],
)
def test_a_png_needs_the_higher_weight(accept: list[str], png: bool) -> None:
    """A response is a PNG only if the client prefers it to JSON."""
    assert wants_png(accept) is png
