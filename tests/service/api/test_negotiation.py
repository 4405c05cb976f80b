"""What a client prefers, read from its headers."""

from __future__ import annotations

import pytest

from service.api.negotiation import wait_seconds, wants_png


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
def test_the_wait_is_read_as_rfc_7240_has_it(prefer: list[str], seconds: float | None) -> None:
    """The first wait of all headers counts, bounded; what does not parse is as if it were not there."""
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
def test_a_png_is_sent_only_to_those_who_like_it_better(accept: list[str], png: bool) -> None:
    """Weights decide, and in doubt it is JSON."""
    assert wants_png(accept) is png
