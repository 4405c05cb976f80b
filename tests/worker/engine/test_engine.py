"""The engine's promises, with a pipeline that only counts: who shares a pass, who fails, who waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from models.row import STAGES, Row
from worker.engine.core import Engine, Ticket, batch_limits, is_out_of_memory

WAIT_S = 60.0
MANY = dict.fromkeys(STAGES, 100)


def row(name: str, **plan: int) -> Row:
    """A row that takes so many steps in each of these stages."""
    made = Row(name, 0, None, plan)  # type: ignore[arg-type]  # the engine never looks at parameters
    made.steps = next(iter(plan.values()))
    return made


class CountingPipeline:
    """Moves each row along its plan. Before a pass it calls `trouble(stage, names)`, in the engine's thread, which may raise."""

    def __init__(self) -> None:
        self.passes: list[tuple[str, list[str]]] = []
        self.trouble: Callable[[str, list[str]], None] = lambda stage, names: None

    def step(self, rows: Sequence[Row]) -> None:
        names = [row.prompt for row in rows]
        (stage,) = {row.stage for row in rows}
        self.passes.append((str(stage), names))
        self.trouble(str(stage), names)
        for moved in rows:
            moved.step += 1
            if moved.step == moved.plan[str(stage)]:
                following = list(moved.plan)[list(moved.plan).index(str(stage)) + 1 :]
                moved.stage, moved.step = (following[0], 0) if following else (None, 0)
                if following:
                    moved.steps = moved.plan[following[0]]
                else:
                    moved.image = torch.full((3, 1, 1), 1.0)


class House:
    """An engine that starts when told, so that what is submitted before is there at the first tick."""

    def __init__(self, limits: dict[str, int], patience: int = 1) -> None:
        self.pipeline = CountingPipeline()
        self.observed: list[tuple[str, int]] = []
        self.engine = Engine(
            self.pipeline,
            limits,
            lambda stage, rows, seconds: self.observed.append((stage, rows)),
            patience=patience,
        )

    def run(self, *tickets: Ticket) -> None:
        self.engine.start()
        for ticket in tickets:
            assert ticket.done.wait(WAIT_S)


@pytest.fixture
def house() -> Iterator[Callable[..., House]]:
    houses: list[House] = []

    def build(limits: dict[str, int] = MANY, patience: int = 1) -> House:
        houses.append(House(limits, patience))
        return houses[-1]

    yield build
    for one in houses:
        one.engine.stop()


def test_rows_of_other_ages_share_a_tick(house: Any) -> None:
    """A request that comes later joins at the next step; neither waits for the other's end."""
    home = house()
    late = []

    def trouble(stage: str, names: list[str]) -> None:
        if len(home.pipeline.passes) == 2:
            late.append(home.engine.submit([row("b", prior=4)]))

    home.pipeline.trouble = trouble
    first = home.engine.submit([row("a", prior=4)])
    home.run(first)
    assert late[0].done.wait(WAIT_S)
    passes = [set(names) for _, names in home.pipeline.passes]
    assert passes == [{"a"}, {"a"}, {"a", "b"}, {"a", "b"}, {"b"}, {"b"}]


def test_a_pass_holds_one_network_and_no_more_rows_than_its_limit(house: Any) -> None:
    """Each stage has its own limit."""
    home = house(MANY | {"prior": 3, "decoder": 2})
    rows = [row(name, prior=6, decoder=4) for name in "abcdefg"]
    home.run(home.engine.submit(rows))
    assert all(moved.image is not None for moved in rows)
    widths = {
        stage: {len(names) for at, names in home.pipeline.passes if at == stage}
        for stage in ("prior", "decoder")
    }
    assert max(widths["prior"]) == 3
    assert max(widths["decoder"]) == 2


def slow(home: Any, seconds: float = 0.002) -> None:
    """Passes that take a time worth measuring."""
    home.pipeline.trouble = lambda stage, names: time.sleep(seconds)


def test_a_short_request_is_not_stuck_behind_long_ones(house: Any) -> None:
    """Of two that need different networks the shorter is served first; the long one's passes wait for it, and then go on."""
    home = house()
    slow(home)
    long = row("long", decoder=60)
    late = []
    trouble = home.pipeline.trouble

    def joined(stage: str, names: list[str]) -> None:
        trouble(stage, names)
        if len(home.pipeline.passes) == 10:
            late.append(home.engine.submit([row("short", prior=5)]))

    home.pipeline.trouble = joined
    home.run(home.engine.submit([long]))
    order = [names[0] for _, names in home.pipeline.passes]
    assert late[0].done.is_set()
    assert long.image is not None
    assert [index for index, name in enumerate(order) if name == "short"][-1] <= 10 + 5 + 3


@pytest.mark.parametrize(
    ("each", "together"),
    [(2.0, 1), (0.5, 3), (0.05, 5)],
    ids=["dear", "twice as long with two more", "cheap"],
)
def test_a_short_row_takes_long_ones_along_as_far_as_it_can_bear(
    house: Any, each: float, together: int
) -> None:
    """What a row adds to a pass is measured; those for whom there is no room wait, and end all the same."""
    home = house()
    late = list[Any]()

    def trouble(stage: str, names: list[str]) -> None:
        time.sleep(0.01 * (1 + each * (len(names) - 1)))
        if len(home.pipeline.passes) in (5, 40):
            late.append(home.engine.submit([row(f"short {len(late)}", decoder=8)]))

    home.pipeline.trouble = trouble
    long = [row(f"long {number}", decoder=60) for number in range(4)]
    home.run(home.engine.submit(long))
    assert all(ticket.done.wait(WAIT_S) for ticket in late)
    assert all(one.image is not None for one in long)
    shared = [
        names for _, names in home.pipeline.passes if "short 1" in names
    ]  # by then it is known what a row adds
    assert len(shared) == 8
    assert sum(len(names) == together for names in shared) >= 6


def test_of_rows_as_long_as_each_other_those_that_are_begun_end_first(house: Any) -> None:
    """Two at a time, and not all a little: the first are there after half of the time."""
    home = house(MANY | {"decoder": 2})
    slow(home)
    home.run(home.engine.submit([row(f"r{number}", decoder=10) for number in range(4)]))
    halves = [
        [name for _, names in part for name in names]
        for part in (home.pipeline.passes[:10], home.pipeline.passes[10:])
    ]
    assert set(halves[0]) == {"r0", "r1"}
    assert set(halves[1]) == {"r2", "r3"}


def test_priority_goes_first_among_equals(house: Any) -> None:
    """Of two alike that need different networks, or more rows than a pass holds."""
    home = house(MANY | {"decoder": 1})
    slow(home)
    rows = [row("usual", decoder=6), row("urgent", decoder=6)]
    tickets = [home.engine.submit([rows[0]], 0), home.engine.submit([rows[1]], 5)]
    home.run(*tickets)
    order = [names[0] for _, names in home.pipeline.passes]
    assert order.index("usual") >= 1
    assert order[:4].count("urgent") >= 3
    assert order[-1] == "usual"


@pytest.mark.parametrize(("patience", "stages"), [(1, "PDPPPPP"), (3, "PPPDPPP")])
def test_a_patient_engine_stays_with_a_network(house: Any, patience: int, stages: str) -> None:
    """For as many ticks as it is told, though a row that came meanwhile is nearer to its end and needs another."""
    home = house(patience=patience)
    short = list[Any]()

    def meanwhile(stage: str, names: list[str]) -> None:
        if not short:
            short.append(home.engine.submit([row("short", decoder=1)]))

    home.pipeline.trouble = meanwhile
    home.run(home.engine.submit([row("long", prior=6)]))
    assert [stage[0].upper() for stage, _ in home.pipeline.passes] == list(stages)
    assert short[0].done.is_set()


def test_limits_shrink_with_the_pixels() -> None:
    """16 times the pixels, a sixteenth of the rows, and never none."""
    limits = batch_limits(32)
    assert limits.pop("upsampler_256") == 2
    assert limits.pop("upsampler_1024") == 1
    assert set(limits.values()) == {32}
    assert {"text", "prior", "decoder", "image", "inversion"} <= set(limits)
    assert batch_limits(1) == dict.fromkeys(STAGES, 1)


def test_of_a_failing_batch_only_the_bad_row_fails(house: Any) -> None:
    """The pass is tried again row by row; the others end well, and share passes again."""
    home = house()

    def trouble(stage: str, names: list[str]) -> None:
        if "bad" in names:
            raise ValueError("no such thing")

    home.pipeline.trouble = trouble
    good = [row("a", prior=3), row("b", prior=3)]
    bad = row("bad", prior=3)
    tickets = [
        home.engine.submit([good[0]]),
        home.engine.submit([bad]),
        home.engine.submit([good[1]]),
    ]
    home.run(*tickets)
    assert bad.image is None
    assert bad.error == "the prior failed: ValueError: no such thing"
    assert all(moved.image is not None and moved.error is None for moved in good)
    assert [names for _, names in home.pipeline.passes] == [
        ["a", "bad", "b"],
        ["a"],
        ["bad"],
        ["b"],
        ["a", "b"],
        ["a", "b"],
    ]


def test_the_engine_goes_on_after_a_row_that_fails_alone(house: Any) -> None:
    """Nobody else is there, and later work is done."""
    home = house()

    def trouble(stage: str, names: list[str]) -> None:
        if names == ["bad"]:
            raise KeyError("x")

    home.pipeline.trouble = trouble
    bad = row("bad", decoder=1)
    good = row("good", decoder=1)
    home.run(home.engine.submit([bad]))
    assert bad.error == "the decoder failed: KeyError: 'x'"
    assert home.engine.submit([good]).done.wait(WAIT_S)
    assert good.image is not None


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("cuBLAS: CUBLAS_STATUS_ALLOC_FAILED"),
    ],
)
def test_out_of_memory_halves_the_limit_and_goes_on(house: Any, error: Exception) -> None:
    """No row is lost, the limit stays for later, and other stages keep theirs."""
    home = house()

    def trouble(stage: str, names: list[str]) -> None:
        if stage == "decoder" and len(names) > 3:
            raise error

    home.pipeline.trouble = trouble
    rows = [row(str(index), prior=1, decoder=2) for index in range(12)]
    home.run(home.engine.submit(rows))
    assert all(moved.image is not None for moved in rows)
    sizes = [len(names) for stage, names in home.pipeline.passes if stage == "decoder"]
    assert sizes == [12, 6, *[3] * 8]
    assert home.engine.limits == MANY | {"decoder": 3}


def test_a_row_that_does_not_fit_alone_fails_and_says_so(house: Any) -> None:
    """Halving ends at one; the others go on."""
    home = house()

    def trouble(stage: str, names: list[str]) -> None:
        if "huge" in names:
            raise torch.OutOfMemoryError

    home.pipeline.trouble = trouble
    huge = row("huge", upsampler_1024=2)
    small = row("small", upsampler_1024=2)
    home.run(home.engine.submit([small]), home.engine.submit([huge]))
    assert (
        huge.error
        == "the upsampler_1024 does not fit into the memory of this worker's device, even alone"
    )
    assert small.image is not None
    assert home.engine.limits["upsampler_1024"] == 1


def test_memory_that_the_machine_does_not_have_is_recognised() -> None:
    """By the allocator's own error on this system, and no other error is taken for it."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_abandoned_rows_leave_before_the_next_tick(house: Any) -> None:
    """Their ticket is done at once; their neighbours go on."""
    home = house()
    gone = home.engine.submit([row("x", prior=1000), row("y", prior=1000)])
    stays = home.engine.submit([row("z", prior=5)])

    def trouble(stage: str, names: list[str]) -> None:
        if len(home.pipeline.passes) == 3:
            home.engine.abandon(gone)

    home.pipeline.trouble = trouble
    home.run(stays, gone)
    assert [set(names) for _, names in home.pipeline.passes] == [{"x", "y", "z"}] * 3 + [{"z"}] * 2
    assert home.engine.rows_in_flight == 0


def test_an_engine_whose_rows_are_all_abandoned_rests(house: Any) -> None:
    """And takes new ones."""
    home = house()
    gone = home.engine.submit([row("x", prior=1000)])
    kept = row("y", prior=1)
    home.pipeline.trouble = lambda stage, names: home.engine.abandon(gone)
    home.run(gone)
    assert home.engine.submit([kept]).done.wait(WAIT_S)
    assert kept.image is not None
    assert [names for _, names in home.pipeline.passes] == [["x"], ["y"]]


def test_no_stage_starves_while_new_requests_keep_coming(house: Any) -> None:
    """A request comes with every tick; the row behind all those in the text stage has its turn all the same."""
    home = house()
    old = home.engine.submit([row("old", decoder=10)])

    def trouble(stage: str, names: list[str]) -> None:
        time.sleep(0.001)
        if not old.done.is_set() and len(home.pipeline.passes) < 500:
            home.engine.submit([row("new", text=1, prior=1)])

    home.pipeline.trouble = trouble
    home.run(old)
    ended = max(index for index, (_, names) in enumerate(home.pipeline.passes) if "old" in names)
    assert ended < 300, (
        "about as much as it has left to do, others may have before each of its ten passes"
    )
    assert {"text", "prior"} <= {stage for stage, _ in home.pipeline.passes[:ended]}


def test_a_full_stage_does_not_hold_up_another(house: Any) -> None:
    """Rows far over one stage's limit, and one row elsewhere: it moves every second tick, not after all of them."""
    home = house(MANY | {"decoder": 2})
    crowd = [row(f"c{index}", decoder=5) for index in range(20)]
    lone = home.engine.submit([row("lone", prior=5)])
    home.engine.submit(crowd)
    home.run(lone)
    ended = max(index for index, (_, names) in enumerate(home.pipeline.passes) if "lone" in names)
    assert ended <= 5 * (20 // 2 + 1)


def test_stop_ends_rows_with_an_error_and_takes_no_more(house: Any) -> None:
    """Who waits is told; who comes is refused."""
    home = house()
    endless = home.engine.submit([row("x", prior=10**9), row("y", prior=10**9)])
    home.engine.start()
    home.engine.stop()
    assert endless.done.is_set()
    assert {moved.error for moved in endless.rows} == {"the worker is stopping"}
    with pytest.raises(RuntimeError, match="the engine has stopped"):
        home.engine.submit([row("z", prior=1)])


def test_a_ticket_is_done_when_its_last_row_is(house: Any) -> None:
    """Not before; meanwhile it tells how far all are, and which is last."""
    home = house()
    seen = []
    ticket = home.engine.submit([row("short", prior=1), row("long", prior=1, decoder=3)])

    def trouble(stage: str, names: list[str]) -> None:
        slowest = ticket.slowest
        seen.append(
            (ticket.done.is_set(), round(ticket.fraction, 3), slowest.prompt if slowest else None)
        )

    home.pipeline.trouble = trouble
    home.run(ticket)
    assert [done for done, _, _ in seen] == [False] * 4
    fractions = [fraction for _, fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert [slowest for _, _, slowest in seen[1:]] == ["long"] * 3
    assert ticket.fraction == 1
    assert ticket.slowest is None


def test_every_pass_is_observed(house: Any) -> None:
    """Metrics are told of the stage and its rows."""
    home = house()
    home.run(home.engine.submit([row("a", text=1, prior=2), row("b", text=1)]))
    assert home.observed[:3] == [("text", 2), ("prior", 1), ("prior", 1)]


def test_an_engine_that_breaks_says_so_and_does_not_linger() -> None:
    """What goes wrong outside a pass ends the process, by default: a beat without an engine would take jobs for ever."""
    failed = threading.Event()

    def broken(stage: str, rows: int, seconds: float) -> None:
        raise OSError("the metrics are gone")

    engine = Engine(CountingPipeline(), MANY, broken, failed.set)
    engine.start()
    engine.submit([row("a", text=1)])
    assert failed.wait(WAIT_S)
