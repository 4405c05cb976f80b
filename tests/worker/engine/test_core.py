"""The engine with a fake pipeline: which rows share a pass, which fail, and which leave."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from support.engine import WAIT_S, EngineHarness, FakePipeline, FakeRow

from models.stages import STAGE_NAMES
from worker.engine.core import Engine
from worker.engine.observer import EngineObserver
from worker.engine.tickets import Ticket

UNLIMITED = dict.fromkeys(STAGE_NAMES, 100)
Build = Callable[..., EngineHarness]


@pytest.fixture
def build() -> Iterator[Build]:
    """Build engines that stop after the test."""
    harnesses: list[EngineHarness] = []

    def make(
        pipeline: FakePipeline | None = None, *, min_steps_per_network: int = 1, **limits: int
    ) -> EngineHarness:
        harnesses.append(EngineHarness(UNLIMITED | limits, pipeline, min_steps_per_network))
        return harnesses[-1]

    yield make
    for harness in harnesses:
        harness.engine.stop()


def test_rows_at_different_steps_share_a_pass(build: Build) -> None:
    """A later request joins at the next step; neither waits for the other's end."""
    tickets: list[Ticket] = []

    def on_pass(number: int) -> None:
        if number == 2:
            tickets.append(harness.submit(FakeRow("b", prior=4)))

    harness = build(FakePipeline(on_pass=on_pass))
    harness.run(harness.submit(FakeRow("a", prior=4)))
    assert tickets[0].done.wait(WAIT_S)
    passes = [set(names) for _, names in harness.pipeline.passes]
    assert passes == [{"a"}, {"a"}, {"a", "b"}, {"a", "b"}, {"b"}, {"b"}]


def test_a_pass_holds_one_network_and_no_more_rows_than_its_limit(build: Build) -> None:
    """Each stage has its own limit."""
    harness = build(prior=3, decoder=2)
    rows = [FakeRow(name, prior=6, decoder=4) for name in "abcdefg"]
    harness.run(harness.submit(*rows))
    assert all(row.has_image for row in rows)
    sizes = [(stage, len(names)) for stage, names in harness.pipeline.passes]
    assert max(size for stage, size in sizes if stage == "prior") == 3
    assert max(size for stage, size in sizes if stage == "decoder") == 2


def test_a_short_request_does_not_wait_for_long_ones(build: Build) -> None:
    """Of two that need different networks the shorter goes first, then the long one goes on."""
    tickets: list[Ticket] = []

    def on_pass(number: int) -> None:
        if number == 10:
            tickets.append(harness.submit(FakeRow("short", prior=5)))

    harness = build(FakePipeline(delay_s=lambda rows: 0.002, on_pass=on_pass))
    long = FakeRow("long", decoder=60)
    harness.run(harness.submit(long))
    order = [names[0] for _, names in harness.pipeline.passes]
    last_short = max(index for index, name in enumerate(order) if name == "short")
    assert tickets[0].done.is_set()
    assert long.has_image
    assert last_short <= 10 + 5 + 3


def test_a_priority_goes_first_among_equals(build: Build) -> None:
    """The urgent row has most of the first passes, and the usual one the last."""
    harness = build(FakePipeline(delay_s=lambda rows: 0.002), decoder=1)
    usual = harness.submit(FakeRow("usual", decoder=6))
    urgent = harness.submit(FakeRow("urgent", decoder=6), priority=5)
    harness.run(usual, urgent)
    order = [names[0] for _, names in harness.pipeline.passes]
    assert order.index("usual") >= 1
    assert order[:4].count("urgent") >= 3
    assert order[-1] == "usual"


@pytest.mark.parametrize(("min_steps", "start"), [(1, "PD"), (3, "PPPD")])
def test_a_network_runs_for_its_minimum_of_steps(build: Build, min_steps: int, start: str) -> None:
    """A shorter row that needs another network waits until then."""
    shorts: list[Ticket] = []

    def on_pass(number: int) -> None:
        if not shorts:
            shorts.append(harness.submit(FakeRow("short", decoder=1)))

    harness = build(FakePipeline(on_pass=on_pass), min_steps_per_network=min_steps)
    # A decoder step costs as much as ten of the prior.
    harness.run(harness.submit(FakeRow("long", prior=60)))
    order = "".join(stage[0].upper() for stage, _ in harness.pipeline.passes)
    assert order.rstrip("P") == start
    assert shorts[0].done.is_set()


def test_only_the_bad_row_of_a_failing_pass_fails(build: Build) -> None:
    """The pass is repeated row by row; the other rows end well, and share passes again."""

    def fail_when(stage: str, names: list[str]) -> Exception | None:
        return ValueError("no such thing") if "bad" in names else None

    harness = build(FakePipeline(fail_when=fail_when))
    rows = [FakeRow(name, prior=3) for name in ("a", "bad", "b")]
    harness.run(*[harness.submit(row) for row in rows])
    assert [row.has_image for row in rows] == [True, False, True]
    assert rows[1].error == "stage prior failed: ValueError: no such thing"
    assert rows[0].error is None
    assert [names for _, names in harness.pipeline.passes] == [
        ["a", "bad", "b"],
        ["a"],
        ["bad"],
        ["b"],
        ["a", "b"],
        ["a", "b"],
    ]


def test_the_engine_goes_on_after_a_row_that_fails_alone(build: Build) -> None:
    """Later rows are generated."""

    def fail_when(stage: str, names: list[str]) -> Exception | None:
        return KeyError("x") if names == ["bad"] else None

    harness = build(FakePipeline(fail_when=fail_when))
    bad = FakeRow("bad", decoder=1)
    good = FakeRow("good", decoder=1)
    harness.run(harness.submit(bad))
    assert bad.error == "stage decoder failed: KeyError: 'x'"
    assert harness.submit(good).done.wait(WAIT_S)
    assert good.has_image


def test_out_of_memory_halves_the_limit(build: Build) -> None:
    """No row is lost, the limit stays for later passes, and other stages keep theirs."""

    def fail_when(stage: str, names: list[str]) -> Exception | None:
        is_too_large = stage == "decoder" and len(names) > 3
        return torch.OutOfMemoryError("CUDA out of memory") if is_too_large else None

    harness = build(FakePipeline(fail_when=fail_when))
    rows = [FakeRow(str(index), prior=1, decoder=2) for index in range(12)]
    harness.run(harness.submit(*rows))
    assert all(row.has_image for row in rows)
    sizes = [len(names) for stage, names in harness.pipeline.passes if stage == "decoder"]
    assert sizes == [12, 6, *[3] * 8]
    assert harness.engine.limits == UNLIMITED | {"decoder": 3}
    assert [stage for stage, _ in harness.observer.errors] == ["decoder", "decoder"]


def test_a_row_that_does_not_fit_alone_fails(build: Build) -> None:
    """Halving ends at one row; the other rows go on."""

    def fail_when(stage: str, names: list[str]) -> Exception | None:
        return torch.OutOfMemoryError() if "huge" in names else None

    harness = build(FakePipeline(fail_when=fail_when))
    huge = FakeRow("huge", upsampler_1024=2)
    small = FakeRow("small", upsampler_1024=2)
    harness.run(harness.submit(small), harness.submit(huge))
    assert huge.error is not None
    assert "stage upsampler_1024 does not fit" in huge.error
    assert small.has_image
    assert harness.engine.limits["upsampler_1024"] == 1


def test_cancelled_rows_leave_before_the_next_step(build: Build) -> None:
    """Their ticket is done at once; the other rows go on."""

    def on_pass(number: int) -> None:
        if number == 3:
            harness.engine.cancel(cancelled)

    harness = build(FakePipeline(on_pass=on_pass))
    cancelled = harness.submit(FakeRow("x", prior=1000), FakeRow("y", prior=1000))
    other = harness.submit(FakeRow("z", prior=5))
    harness.run(other, cancelled)
    passes = [set(names) for _, names in harness.pipeline.passes]
    assert passes == [{"x", "y", "z"}] * 3 + [{"z"}] * 2
    assert harness.engine.num_rows == 0


def test_an_engine_whose_rows_are_all_cancelled_waits_for_new_ones(build: Build) -> None:
    """It runs no pass meanwhile."""

    def on_pass(number: int) -> None:
        harness.engine.cancel(cancelled)

    harness = build(FakePipeline(on_pass=on_pass))
    cancelled = harness.submit(FakeRow("x", prior=1000))
    later = FakeRow("y", prior=1)
    harness.run(cancelled)
    assert harness.submit(later).done.wait(WAIT_S)
    assert later.has_image
    assert [names for _, names in harness.pipeline.passes] == [["x"], ["y"]]


def test_a_full_stage_does_not_delay_another(build: Build) -> None:
    """Twenty rows share a stage with two places; one row elsewhere does not wait for all."""
    harness = build(decoder=2)
    lone = harness.submit(FakeRow("lone", prior=5))
    harness.submit(*[FakeRow(f"c{index}", decoder=5) for index in range(20)])
    harness.run(lone)
    passes = harness.pipeline.passes
    last_lone = max(index for index, (_, names) in enumerate(passes) if "lone" in names)
    assert last_lone <= 5 * (20 // 2 + 1)


def test_stop_ends_rows_with_an_error_and_refuses_more(build: Build) -> None:
    """Tickets are done, and `submit` raises."""
    harness = build()
    rows = [FakeRow(name, prior=10**9) for name in "xy"]
    endless = harness.submit(*rows)
    harness.engine.start()
    harness.engine.stop()
    assert endless.done.is_set()
    assert {row.error for row in rows} == {"the worker is stopping"}
    with pytest.raises(RuntimeError, match="the engine has stopped"):
        harness.submit(FakeRow("z", prior=1))


def test_a_ticket_is_done_when_its_last_row_is(build: Build) -> None:
    """Until then it reports its fraction and its slowest row."""
    seen: list[tuple[bool, float, str | None]] = []

    def on_pass(number: int) -> None:
        slowest = ticket.slowest_row
        name = slowest.name if slowest else None  # type: ignore[attr-defined]
        seen.append((ticket.done.is_set(), ticket.fraction, name))

    harness = build(FakePipeline(on_pass=on_pass))
    ticket = harness.submit(FakeRow("short", prior=1), FakeRow("long", prior=1, decoder=3))
    harness.run(ticket)
    fractions = [fraction for _, fraction, _ in seen]
    assert [is_done for is_done, _, _ in seen] == [False] * 4
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert [name for _, _, name in seen[1:]] == ["long"] * 3
    assert ticket.fraction == 1
    assert ticket.slowest_row is None


def test_the_remaining_time_is_known_once_every_stage_is_measured(build: Build) -> None:
    """Before that it is None, and it falls with the rows' progress."""
    remaining: list[float | None] = []

    def on_pass(number: int) -> None:
        remaining.append(harness.engine.remaining_seconds(tickets[-1]))

    harness = build(FakePipeline(delay_s=lambda rows: 0.01, on_pass=on_pass))
    tickets = [harness.submit(FakeRow("first", prior=1, decoder=2))]
    harness.run(tickets[0])
    assert remaining[:2] == [None, None]
    remaining.clear()
    tickets.append(harness.submit(FakeRow("second", prior=1, decoder=4)))
    assert tickets[-1].done.wait(WAIT_S)
    measured = [seconds for seconds in remaining if seconds is not None]
    assert len(measured) == 5
    assert measured == sorted(measured, reverse=True)
    assert 0.01 < measured[0] < 1


def test_every_pass_is_reported(build: Build) -> None:
    """The observer gets the stage and the number of rows."""
    harness = build()
    harness.run(harness.submit(FakeRow("a", text=1, prior=2), FakeRow("b", text=1)))
    assert harness.observer.passes[:3] == [("text", 2), ("prior", 1), ("prior", 1)]


def test_an_engine_that_crashes_is_reported() -> None:
    """An error outside a pass reaches the observer, which ends the process by default."""
    crashed = threading.Event()

    class BrokenObserver(EngineObserver):
        def pass_finished(self, stage: str, rows: int, seconds: float) -> None:
            raise OSError("the metrics do not work")

        def engine_crashed(self) -> None:
            crashed.set()

    engine = Engine(FakePipeline(), UNLIMITED, BrokenObserver())  # type: ignore[arg-type]
    engine.start()
    engine.submit([FakeRow("a", text=1)])  # type: ignore[list-item]
    assert crashed.wait(WAIT_S)
