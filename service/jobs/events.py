"""Events of jobs as they happen: one reader a job, however many listen.

A job's events lie in a Redis stream, so that nothing is missed: who comes late or again reads on from the last event it had.
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
from service.jobs.estimate import Place, ask, standing_of

BLOCK_S = 1.0  # a reader asks Redis in turns of this length, well under the socket's timeout
AGAIN_S = 0.5  # after Redis did not answer
WATCHED_TTL_S = (
    5  # longer than a turn: so long after the last listener left, previews are still made
)
KEEPALIVE_S = 15.0
MAX_BEHIND = 1000  # events that a slow listener may be behind before it is let go; it comes back with its Last-Event-ID
START = "0-0"
EVENT_ID = r"^\d{1,19}-\d{1,19}$"


@dataclass(frozen=True)
class Event:
    """`id`: its place in the stream; None for what is not kept there, such as places in the queue."""

    id: str | None
    name: str
    data: str

    @property
    def order(self) -> tuple[int, ...]:
        """Ids compare by their two numbers."""
        return order(self.id or START)


def order(event_id: str) -> tuple[int, ...]:
    """An id as numbers that compare."""
    return tuple(map(int, event_id.split("-")))


class Events:
    """All readers of this process."""

    def __init__(self, redis: Any) -> None:
        self.redis = redis
        self._readers: dict[str, _Reader] = {}

    async def close(self) -> None:
        """End all readers, and so their listeners."""
        for reader in list(self._readers.values()):
            reader.task.cancel()
            with suppress(asyncio.CancelledError):
                await reader.task

    async def listen(
        self, job_id: str, after: str = START, *, previews: bool = False
    ) -> AsyncGenerator[Event, None]:
        """A job's events after the one with this id, as they come, to the last one. `previews` has the worker make them; without it
        there are none."""
        reader = self._readers.get(job_id)
        if reader is None or reader.over:
            reader = self._readers[job_id] = _Reader(self.redis, job_id)
        queue = reader.join(previews)
        last = order(after)
        try:
            await reader.begun.wait()
            # What came before the reader began; what comes meanwhile is in the queue, and not told twice.
            for event in await self._kept(job_id, after):
                last = event.order
                if previews or event.name != "preview":
                    yield event
                if event.name == "ended":
                    return
            while (found := await queue.get()) is not None:
                if found.id is None or found.order > last:
                    last = last if found.id is None else found.order
                    if previews or found.name != "preview":
                        yield found
        finally:
            reader.leave(queue, previews)
            if reader.over and self._readers.get(job_id) is reader:
                del self._readers[job_id]

    async def _kept(self, job_id: str, after: str) -> list[Event]:
        while True:
            try:
                return [
                    _event(*entry)
                    for entry in await self.redis.xrange(redis_keys.events(job_id), min=f"({after}")
                ]
            except RedisError:
                await asyncio.sleep(AGAIN_S)


class _Reader:
    """Reads one job's stream for as long as anybody listens and the job has not ended."""

    def __init__(self, redis: Any, job_id: str) -> None:
        self.redis = redis
        self.job_id = job_id
        self.begun = asyncio.Event()
        self.over = False
        self.task = asyncio.create_task(self._run())
        self._queues: set[asyncio.Queue[Event | None]] = set()
        self._watching = 0
        self._told: Place | None = None

    def join(self, watch: bool) -> asyncio.Queue[Event | None]:
        """A listener's own queue; None in it means that nothing more comes."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(MAX_BEHIND + 1)
        self._queues.add(queue)
        self._watching += watch
        return queue

    def leave(self, queue: asyncio.Queue[Event | None], watch: bool) -> None:
        """Without listeners there is nothing to read for."""
        self._queues.discard(queue)
        self._watching -= watch
        if not self._queues:
            self.over = True
            self.task.cancel()

    def _tell(self, event: Event | None) -> None:
        for queue in list(self._queues):
            behind = queue.qsize() >= MAX_BEHIND
            if behind:
                self._queues.discard(queue)
            queue.put_nowait(None if behind else event)

    async def _run(self) -> None:
        try:
            await self._read(await self._last())
        finally:
            self.over = True
            self.begun.set()
            self._tell(None)

    async def _last(self) -> str:
        """The id of the newest event; from there on, nothing is missed."""
        while True:
            try:
                newest = await self.redis.xrevrange(redis_keys.events(self.job_id), count=1)
                self.begun.set()
                return newest[0][0].decode() if newest else START
            except RedisError:
                await asyncio.sleep(AGAIN_S)

    async def _read(self, last: str) -> None:
        stream = redis_keys.events(self.job_id)
        while True:
            try:
                if self._watching:
                    await self.redis.set(
                        redis_keys.preview_subscribed(self.job_id), "1", ex=WATCHED_TTL_S
                    )
                found = await self.redis.xread({stream: last}, block=int(BLOCK_S * 1000))
                for entry in found[0][1] if found else ():
                    event = _event(*entry)
                    last = str(event.id)
                    self._tell(event)
                    if event.name == "ended":
                        return
                if not found and await self._idle():
                    return
            except RedisError:
                await asyncio.sleep(AGAIN_S)

    async def _idle(self) -> bool:
        """Nothing happened for a turn: tell of the job's place in the queue if that changed. True where nothing will happen any more."""
        standing = standing_of(await ask(self.redis, self.job_id))
        if standing.record is None or standing.record.status in ENDED:
            return True
        if standing.record.status == "queued":
            found = standing.place
            if found != self._told:
                self._told = found
                self._tell(
                    Event(
                        None,
                        "queued",
                        json.dumps(
                            {"queue_position": found.position, "eta_seconds": found.eta_seconds}
                        ),
                    )
                )
        return False


def _event(event_id: bytes, fields: dict[bytes, bytes]) -> Event:
    return Event(event_id.decode(), fields[b"event"].decode(), fields[b"data"].decode())


async def paused(
    events: AsyncGenerator[Event, None], seconds: float
) -> AsyncGenerator[Event | None, None]:
    """Events as they come, and None wherever none came for so long."""
    async with aclosing(events) as source:
        upcoming = asyncio.ensure_future(anext(source, None))
        try:
            while True:
                done, _ = await asyncio.wait([upcoming], timeout=seconds)
                if not done:
                    yield None
                    continue
                event = upcoming.result()
                if event is None:
                    return
                upcoming = asyncio.ensure_future(anext(source, None))
                yield event
        finally:
            upcoming.cancel()
            with suppress(asyncio.CancelledError):
                await upcoming


async def server_sent(events: AsyncGenerator[Event, None]) -> AsyncIterator[bytes]:
    """Events in the format of text/event-stream, with a comment now and then, so that nobody on the way thinks the line dead."""
    yield format_sse_event(comment="the job's events; Last-Event-ID resumes", retry=1000)
    async with aclosing(paused(events, KEEPALIVE_S)) as source:
        async for event in source:
            yield (
                KEEPALIVE_COMMENT
                if event is None
                else format_sse_event(data_str=event.data, event=event.name, id=event.id)
            )
