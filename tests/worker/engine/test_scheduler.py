"""The scheduling policy alone: simulated arrivals, an explicit clock, no thread and no tensors."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
from support.engine import FakeRow

from worker.engine.scheduler import Scheduler
from worker.engine.tickets import Ticket

STEP_S = {"text": 0.005, "prior": 0.01, "decoder": 0.05, "upsampler_256": 0.2}
LIMITS = {"text": 8, "prior": 8, "decoder": 3, "upsampler_256": 1}


def image(name: str, decoder: int = 4, upsampler: int = 0) -> FakeRow:
    """A row of a text-to-image request."""
    stages = {"text": 1, "prior": 3, "decoder": decoder, "upsampler_256": upsampler}
    return FakeRow(name, **{stage: steps for stage, steps in stages.items() if steps})


Arrivals = dict[int, list[tuple[FakeRow, int]]]


def simulate(
    arrivals: Arrivals,
    limits: dict[str, int] = LIMITS,
    row_share: float = 0.5,
    min_steps_per_network: int = 1,
    max_steps: int = 400,
) -> list[tuple[int, str]]:
    """Run engine steps and return the passes, as (how many in a row, "stage: rows").

    `arrivals`: rows and their priority, by the engine step that they arrive before. `row_share`:
    what each further row of a pass adds to it, as a share of a pass of one row.
    """
    scheduler = Scheduler(limits, min_steps_per_network)
    entries = []
    passes = []
    time_s = 0.0
    for step in range(max_steps):
        for arriving, priority in arrivals.get(step, []):
            ticket = Ticket([arriving])  # type: ignore[list-item]
            entries.append(scheduler.add(arriving, ticket, priority, time_s))
        batch = scheduler.schedule(entries)
        if batch is None:
            break
        passes.append(f"{batch.stage}: {' '.join(one.name for one in batch.rows)}")
        started_at = time_s
        time_s += STEP_S[batch.stage] * (1 + row_share * (len(batch.rows) - 1))
        for advanced in batch.rows:
            advanced.advance()
        scheduler.update(batch, started_at, time_s)
        entries = [entry for entry in entries if entry.row.stage is not None]
    return [(len(list(group)), one) for one, group in itertools.groupby(passes)]


def mixed_sizes() -> Arrivals:
    """Short and long requests, one of them with a higher priority."""
    return {
        0: [(image("long", decoder=12, upsampler=2), 0), (image("a"), 0)],
        3: [(image("b"), 0), (image("c"), 0)],
        9: [(image("d", decoder=6), 1), (image("e", upsampler=1), 0)],
    }


def long_then_short() -> Arrivals:
    """Three long requests, and a short one at two later times."""
    return {
        0: [(image(f"long{number}", decoder=14), 0) for number in range(3)],
        8: [(image("short1"), 0)],
        20: [(image("short2"), 0)],
    }


def test_requests_of_mixed_sizes() -> None:
    """Short rows overtake long ones, which join their passes if the limit has room."""
    assert simulate(mixed_sizes()) == [
        (1, "text: a long"),
        (3, "prior: a long"),
        (4, "decoder: a long"),
        (1, "text: b c"),
        (1, "text: d e"),
        (3, "prior: d b c e"),
        (4, "decoder: d b c"),
        (2, "decoder: d e long"),
        (2, "decoder: e long"),
        (1, "upsampler_256: e"),
        (4, "decoder: long"),
        (2, "upsampler_256: long"),
    ]


def test_a_network_keeps_running_with_offloading() -> None:
    """Each network runs at least three steps while rows need it."""
    assert simulate(mixed_sizes(), min_steps_per_network=3) == [
        (1, "text: a long"),
        (3, "prior: a long"),
        (4, "decoder: a long"),
        (2, "decoder: long"),
        (1, "text: b c d e"),
        (3, "prior: d b c e"),
        (4, "decoder: d b c"),
        (2, "decoder: d e long"),
        (2, "decoder: e long"),
        (1, "decoder: long"),
        (1, "upsampler_256: e"),
        (1, "decoder: long"),
        (2, "upsampler_256: long"),
    ]


def test_long_rows_wait_if_rows_are_costly() -> None:
    """A pass of one row more takes three times as long, so short rows run alone once measured."""
    assert simulate(long_then_short(), LIMITS | {"decoder": 8}, row_share=2.0) == [
        (1, "text: long0 long1 long2"),
        (3, "prior: long0 long1 long2"),
        (4, "decoder: long0 long1 long2"),
        (1, "text: short1"),
        (3, "prior: short1"),
        (1, "decoder: short1 long0 long1 long2"),
        (3, "decoder: short1"),
        (4, "decoder: long0 long1 long2"),
        (1, "text: short2"),
        (3, "prior: short2"),
        (4, "decoder: short2"),
        (5, "decoder: long0 long1 long2"),
    ]


def test_long_rows_join_if_rows_are_cheap() -> None:
    """A further row adds a twentieth, so long rows share the short rows' passes."""
    assert simulate(long_then_short(), LIMITS | {"decoder": 8}, row_share=0.05) == [
        (1, "text: long0 long1 long2"),
        (3, "prior: long0 long1 long2"),
        (4, "decoder: long0 long1 long2"),
        (1, "text: short1"),
        (3, "prior: short1"),
        (4, "decoder: short1 long0 long1 long2"),
        (4, "decoder: long0 long1 long2"),
        (1, "text: short2"),
        (3, "prior: short2"),
        (2, "decoder: short2 long0 long1 long2"),
        (2, "decoder: short2"),
    ]


def test_as_many_long_rows_join_as_the_bound_allows() -> None:
    """A further row adds half of a single-row pass, so two long rows join a short one."""
    assert simulate(long_then_short(), LIMITS | {"decoder": 8}, row_share=0.5) == [
        (1, "text: long0 long1 long2"),
        (3, "prior: long0 long1 long2"),
        (4, "decoder: long0 long1 long2"),
        (1, "text: short1"),
        (3, "prior: short1"),
        (1, "decoder: short1 long0 long1 long2"),
        (3, "decoder: short1 long0 long1"),
        (4, "decoder: long0 long1 long2"),
        (1, "text: short2"),
        (3, "prior: short2"),
        (2, "decoder: short2 long0 long1"),
        (2, "decoder: short2 long2"),
        (3, "decoder: long2"),
    ]


def test_priority_halves_the_work_that_counts() -> None:
    """Urgent rows go first; rows that were skipped longer than they take get a step too."""
    arrivals = {
        0: [
            (FakeRow("usual", decoder=6), 0),
            (FakeRow("urgent", decoder=6), 2),
            (FakeRow("later", prior=8), -1),
        ],
        2: [(FakeRow("top", decoder=10), 5)],
    }
    assert simulate(arrivals, LIMITS | {"decoder": 1}) == [
        (2, "decoder: urgent"),
        (1, "prior: later"),
        (2, "decoder: top"),
        (1, "decoder: urgent"),
        (1, "decoder: top"),
        (1, "prior: later"),
        (1, "decoder: usual"),
        (1, "decoder: top"),
        (1, "decoder: urgent"),
        (1, "decoder: top"),
        (1, "prior: later"),
        (1, "decoder: top"),
        (1, "decoder: urgent"),
        (1, "decoder: top"),
        (1, "decoder: usual"),
        (1, "decoder: top"),
        (1, "decoder: urgent"),
        (1, "decoder: top"),
        (1, "prior: later"),
        (1, "decoder: top"),
        (4, "prior: later"),
        (4, "decoder: usual"),
    ]


def test_no_row_starves_behind_a_crowd_of_short_ones() -> None:
    """A short request arrives before every step; the old row still gets its steps."""
    crowd = {step: [(FakeRow(f"n{step}", text=1, prior=2), 0)] for step in range(1, 40)}
    arrivals: Arrivals = {0: [(FakeRow("old", decoder=4), 0)]} | crowd
    passes = simulate(arrivals, max_steps=28)
    assert passes == [
        (1, "decoder: old"),
        (1, "text: n1"),
        (2, "prior: n1"),
        (1, "text: n2 n3 n4"),
        (2, "prior: n2 n3 n4"),
        (1, "text: n5 n6 n7"),
        (2, "prior: n5 n6 n7"),
        (1, "text: n8 n9 n10"),
        (2, "prior: n8 n9 n10"),
        (1, "text: n11 n12 n13"),
        (1, "prior: n11 n12 n13"),
        (1, "decoder: old"),
        (1, "prior: n11 n12 n13"),
        (1, "text: n14 n15 n16 n17"),
        (2, "prior: n14 n15 n16 n17"),
        (1, "text: n18 n19 n20"),
        (2, "prior: n18 n19 n20"),
        (1, "text: n21 n22 n23"),
        (2, "prior: n21 n22 n23"),
        (1, "text: n24 n25 n26"),
        (1, "prior: n24 n25 n26"),
    ]


def test_equal_rows_take_turns_at_a_full_stage() -> None:
    """The limit holds, and rows that wait longer than they take go first once."""
    arrivals: Arrivals = {0: [(FakeRow(f"r{number}", decoder=3), 0) for number in range(5)]}
    assert simulate(arrivals, LIMITS | {"decoder": 2}) == [
        (3, "decoder: r0 r1"),
        (1, "decoder: r2 r3"),
        (1, "decoder: r4 r2"),
        (1, "decoder: r2 r3"),
        (1, "decoder: r3 r4"),
        (1, "decoder: r4"),
    ]


def test_a_halved_limit_applies_to_the_next_pass() -> None:
    """Six rows did not fit, so three share the next pass; other stages keep their limits."""
    scheduler = Scheduler({"decoder": 8, "prior": 8})
    rows = [FakeRow(str(number), decoder=2) for number in range(6)]
    entries = [
        scheduler.add(row, Ticket([row]), 0, 0.0)  # type: ignore[arg-type, list-item]
        for row in rows
    ]
    assert scheduler.halve_limit("decoder", 6) == 3
    batch = scheduler.schedule(entries)
    assert batch is not None
    assert len(batch.entries) == 3
    assert scheduler.limits == {"decoder": 3, "prior": 8}


def test_nothing_is_scheduled_without_entries() -> None:
    assert Scheduler(LIMITS).schedule([]) is None


@pytest.mark.parametrize("module", ["scheduler", "cost_model", "tickets"])
def test_the_policy_needs_no_torch(module: str) -> None:
    """It can be simulated and tested on its own."""
    program = f"import sys, worker.engine.{module}; sys.exit('torch' in sys.modules)"
    completed = subprocess.run([sys.executable, "-c", program], check=False)
    assert completed.returncode == 0
