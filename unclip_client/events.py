"""Server-sent events of a job, and a progress bar that shows them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Event:
    """One server-sent event.

    Attributes:
        id: where a broken stream resumes; None for events without history.
        name: "queued", "progress", "preview" or "ended".
        data: the event's JSON object.
    """

    id: str | None
    name: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Preview:
    """An unfinished image of a running job.

    Attributes:
        index: which of the job's images it is.
        content: a small WebP file.
        fraction: completed share of the job's work, 0 to 1.
    """

    index: int
    content: bytes
    fraction: float


def parse_sse(lines: Iterable[str]) -> Iterator[Event]:
    """Parse lines of text/event-stream; an event that breaks off is dropped."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            # A comment begins with a colon, so its name is empty and it is never read.
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
            continue
        if "data" in fields:
            name = fields.get("event", "message")
            yield Event(fields.get("id"), name, json.loads(fields["data"]))
        fields = {}


@contextmanager
def progress_bar(is_enabled: bool) -> Iterator[Callable[[Event], None]]:
    """Yield a function that shows events on stderr (by tqdm), or ignores them if not enabled."""
    if not is_enabled:
        yield lambda event: None
        return
    from tqdm import tqdm

    layout = "{desc} {percentage:3.0f} %|{bar:30}| {elapsed}"
    with tqdm(total=1.0, bar_format=layout, leave=False) as bar:

        def show(event: Event) -> None:
            if event.name == "queued" and event.data["queue_position"] is not None:
                bar.set_description_str(f"{event.data['queue_position']} jobs ahead")
            elif event.name == "progress":
                eta_s = event.data["eta_seconds"]
                eta = "" if eta_s is None else f", {eta_s:.0f} s left"
                bar.set_description_str(event.data["stage"] + eta, refresh=False)
                bar.n = event.data["fraction"]
                bar.refresh()

        yield show
