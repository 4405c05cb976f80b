"""What the worker tells Prometheus of its passes."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from prometheus_client import REGISTRY

from models.row import STAGES, Row
from worker import metrics
from worker.engine import Engine


class OneStepStack:
    """Ends every row at once, when allowed to."""

    def __init__(self) -> None:
        self.allowed = threading.Event()

    def step(self, rows: Sequence[Row]) -> None:
        self.allowed.wait(20)
        for row in rows:
            row.end(error="over")


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_passes_their_rows_and_their_time_are_counted_by_stage() -> None:
    """And the rows in the making are those the engine holds at the moment of asking."""
    stack = OneStepStack()
    engine = Engine(stack, dict.fromkeys(STAGES, 8), metrics.observe)
    metrics.watch(engine)
    names = ("unclip_ticks_total", "unclip_stage_seconds_total", "unclip_batch_rows_sum")
    before = [value(name, stage="decoder") for name in names]
    ticket = engine.submit([Row("a", 0, None, {"decoder": 1}) for _ in range(3)])  # type: ignore[arg-type]
    engine.start()
    try:
        assert value("unclip_rows_in_flight") == 3
        stack.allowed.set()
        assert ticket.done.wait(20)
    finally:
        engine.stop()
    ticks, seconds, rows = (
        after - earlier for earlier, after in zip(before, (value(name, stage="decoder") for name in names), strict=True)
    )
    assert ticks == 1 and seconds > 0 and rows == 3
    assert value("unclip_rows_in_flight") == 0
