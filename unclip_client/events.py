"""A job's events, from the lines of text/event-stream, and as a bar in the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Event:
    """`name`: queued, progress, preview or ended. `id`: from where a broken line goes on; None for places in the queue."""

    id: str | None
    name: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Preview:
    """One of the job's images as far as it is, a small WebP; and the share of the job's work that is done."""

    index: int
    content: bytes
    fraction: float


def parsed(lines: Iterable[str]) -> Iterator[Event]:
    """Whole events; one that breaks off is none."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if line:
            fields[name] = value.removeprefix(
                " "
            )  # what begins with a colon is a comment: its name is empty
        elif "data" in fields:
            yield Event(
                fields.get("id"), fields.get("event", "message"), json.loads(fields["data"])
            )
        if not line:
            fields = {}


@contextmanager
def bar(shown: bool) -> Iterator[Callable[[Event], None]]:
    """Somebody to tell events to, who shows them on stderr (by tqdm) if `shown`."""
    if not shown:
        yield lambda event: None
        return
    from tqdm import tqdm

    with tqdm(
        total=1.0, bar_format="{desc} {percentage:3.0f} %|{bar:30}| {elapsed}", leave=False
    ) as meter:

        def tell(event: Event) -> None:
            if event.name == "queued" and event.data["queue_position"] is not None:
                meter.set_description_str(f"{event.data['queue_position']} before it")
            elif event.name == "progress":
                left = event.data["eta_seconds"]
                meter.set_description_str(
                    event.data["stage"] + (f", {left:.0f} s left" if left is not None else ""),
                    refresh=False,
                )
                meter.n = event.data["fraction"]
                meter.refresh()

        yield tell
