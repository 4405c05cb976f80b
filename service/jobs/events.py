"""Events of jobs: one reader for each job, any number of listeners.

A job's events are in a Redis stream, so nothing is lost: a listener that comes late, or comes back,
continues after the last event that it received.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from redis.exceptions import RedisError

from contracts import redis_keys
from contracts.jobs import ENDED
from service.jobs.estimate import QueuePlace, read_snapshot

# One blocking read of Redis, well below the socket's timeout.
BLOCK_S = 1.0
RETRY_S = 0.5
# Longer than one read. Workers make previews this long after the last listener has left.
PREVIEW_TTL_S = 5
KEEPALIVE_S = 15.0
# A listener with more unread events is disconnected; it may resume with its Last-Event-ID.
MAX_BACKLOG = 1000
START = "0-0"
EVENT_ID = r"^\d{1,19}-\d{1,19}$"


@dataclass(frozen=True)
class Event:
    """An event. `id`: its place in the stream; None if it is not stored, such as a queue place."""

    id: str | None
    name: str
    data: str

    @property
    def order(self) -> tuple[int, ...]:
        """The id as numbers that compare."""
        return parse_order(self.id or START)


def parse_order(event_id: str) -> tuple[int, ...]:
    """Return an event's id as numbers that compare."""
    return tuple(map(int, event_id.split("-")))


class Events:
    """All readers of this process."""

    def __init__(self, redis: Any) -> None:
        self.redis = redis
        # Set when the service shuts down.
        self.is_ending = asyncio.Event()
        self._readers: dict[str, _Reader] = {}

    def end_streams(self) -> None:
        """End open event streams; their clients come back with a Last-Event-ID."""
        self.is_ending.set()

    def end_waits(self) -> None:
        """End everything that listens at present, so that waits return before their job ends."""
        for reader in list(self._readers.values()):
            reader.task.cancel()

    async def close(self) -> None:
        """Stop all readers, which disconnects their listeners."""
        for reader in list(self._readers.values()):
            reader.task.cancel()
            with suppress(asyncio.CancelledError):
                await reader.task

    async def listen(
        self, job_id: str, after: str = START, *, previews: bool = False
    ) -> AsyncGenerator[Event, None]:
        """Yield a job's events after the one with this id, until the last.

        previews: also previews, which the worker makes only while somebody listens for them.
        """
        reader = self._readers.get(job_id)
        is_first = reader is None or reader.is_over
        if reader is None or is_first:
            reader = self._readers[job_id] = _Reader(self.redis, job_id)
        queue = reader.subscribe(previews)
        last = parse_order(after)
        try:
            # The reader begins with the stream, so its first listener misses nothing. A later one
            # reads what came before; events that arrive meanwhile are in both and yielded once.
            for event in () if is_first else await self._stored(job_id, after):
                last = event.order
                if previews or event.name != "preview":
                    yield event
                if event.name == "ended":
                    return
            while (next_event := await queue.get()) is not None:
                if next_event.id is not None:
                    if next_event.order <= last:
                        continue
                    last = next_event.order
                if previews or next_event.name != "preview":
                    yield next_event
        finally:
            reader.unsubscribe(queue, previews)
            if reader.is_over and self._readers.get(job_id) is reader:
                del self._readers[job_id]

    async def _stored(self, job_id: str, after: str) -> list[Event]:
        stream = redis_keys.events(job_id)
        while True:
            try:
                entries = await self.redis.xrange(stream, min=f"({after}")
            except RedisError:
                await asyncio.sleep(RETRY_S)
            else:
                return [_parse_event(*entry) for entry in entries]


class _Reader:
    """Read one job's stream until it ends or its last listener leaves."""

    def __init__(self, redis: Any, job_id: str) -> None:
        self.redis = redis
        self.job_id = job_id
        self.is_over = False
        self.task = asyncio.create_task(self._run())
        self._queues: set[asyncio.Queue[Event | None]] = set()
        self._preview_listeners = 0
        self._place: QueuePlace | None = None

    def subscribe(self, previews: bool) -> asyncio.Queue[Event | None]:
        """Return a queue of events for one listener; None in it is the end."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(MAX_BACKLOG + 1)
        self._queues.add(queue)
        self._preview_listeners += previews
        return queue

    def unsubscribe(self, queue: asyncio.Queue[Event | None], previews: bool) -> None:
        """Remove a listener. The last one stops the reader."""
        self._queues.discard(queue)
        self._preview_listeners -= previews
        if not self._queues:
            self.is_over = True
            self.task.cancel()

    def _publish(self, event: Event | None) -> None:
        for queue in list(self._queues):
            is_full = queue.qsize() >= MAX_BACKLOG
            if is_full:
                self._queues.discard(queue)
            queue.put_nowait(None if is_full else event)

    async def _run(self) -> None:
        try:
            await self._read()
        finally:
            self.is_over = True
            self._publish(None)

    async def _read(self) -> None:
        stream = redis_keys.events(self.job_id)
        last = START
        while True:
            try:
                if self._preview_listeners:
                    key = redis_keys.preview_subscribed(self.job_id)
                    await self.redis.set(key, "1", ex=PREVIEW_TTL_S)
                reply = await self.redis.xread(
                    {stream: last}, count=MAX_BACKLOG // 2, block=int(BLOCK_S * 1000)
                )
                for entry in reply[0][1] if reply else ():
                    event = _parse_event(*entry)
                    last = str(event.id)
                    self._publish(event)
                    if event.name == "ended":
                        return
                if not reply and await self._check_job():
                    return
            except RedisError:
                await asyncio.sleep(RETRY_S)

    async def _check_job(self) -> bool:
        """Publish the job's place in the queue if it changed. Return whether the job has ended."""
        snapshot = await read_snapshot(self.redis, self.job_id)
        if snapshot is None or snapshot.record.status in ENDED:
            return True
        place = snapshot.place
        if snapshot.record.status == "queued" and place != self._place:
            self._place = place
            data = {"queue_position": place.position, "eta_seconds": place.eta_seconds}
            self._publish(Event(None, "queued", json.dumps(data)))
        return False


def _parse_event(event_id: bytes, fields: dict[bytes, bytes]) -> Event:
    return Event(event_id.decode(), fields[b"event"].decode(), fields[b"data"].decode())


async def with_pauses(
    events: AsyncGenerator[Event, None], seconds: float, stop: asyncio.Event | None = None
) -> AsyncGenerator[Event | None, None]:
    """Yield events as they come, and None after every `seconds` without one.

    stop: ends the events when it is set.
    """
    async with aclosing(events) as source:
        upcoming = asyncio.ensure_future(anext(source, None))
        stopping = asyncio.ensure_future((stop or asyncio.Event()).wait())
        try:
            while True:
                done, _ = await asyncio.wait(
                    [upcoming, stopping], timeout=seconds, return_when=asyncio.FIRST_COMPLETED
                )
                if stopping in done and upcoming not in done:
                    return
                if not done:
                    yield None
                    continue
                event = upcoming.result()
                if event is None:
                    return
                upcoming = asyncio.ensure_future(anext(source, None))
                yield event
        finally:
            stopping.cancel()
            upcoming.cancel()
            with suppress(asyncio.CancelledError):
                await upcoming


async def to_sse(
    events: AsyncGenerator[Event, None], stop: asyncio.Event | None = None
) -> AsyncIterator[bytes]:
    """Format events as text/event-stream, until their end or until `stop` is set.

    A keep-alive comment every KEEPALIVE_S seconds prevents proxies from closing the connection.
    """
    yield format_sse_event(comment="events of the job; Last-Event-ID resumes", retry=1000)
    async with aclosing(with_pauses(events, KEEPALIVE_S, stop)) as source:
        async for event in source:
            yield (
                KEEPALIVE_COMMENT
                if event is None
                else format_sse_event(data_str=event.data, event=event.name, id=event.id)
            )
