"""Hears which jobs are cancelled, so that their rows leave the batch at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from contracts import redis_keys
from worker.engine.core import Engine, Ticket

log = logging.getLogger("worker.jobs.cancellation")
POLL_S = 1.0


class Cancellations:
    """Listens on a channel. What is said while the connection is down is missed: then the job's own record, which takes no more
    progress, tells within the time between two tellings of it."""

    def __init__(self, connection: Redis, engine: Engine) -> None:
        self.redis = connection
        self.engine = engine
        self._tickets: dict[str, Ticket] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="cancellations", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Listen no more."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    @contextmanager
    def of(self, job_id: str, ticket: Ticket) -> Iterator[None]:
        """Within, the ticket is abandoned as soon as the job is cancelled."""
        self._tickets[job_id] = ticket
        try:
            yield
        finally:
            del self._tickets[job_id]

    def _listen(self) -> None:
        while not self._over.is_set():
            try:
                with self.redis.pubsub(ignore_subscribe_messages=True) as channel:
                    channel.subscribe(redis_keys.CANCELLED)
                    while not self._over.is_set():
                        self._hear(channel.get_message(timeout=POLL_S))
            except RedisError as error:
                log.warning("cancellations are heard of late until Redis answers again: %s", error)
                self._over.wait(POLL_S)

    def _hear(self, message: dict[str, Any] | None) -> None:
        ticket = self._tickets.get(message["data"].decode()) if message else None
        if ticket is not None:
            self.engine.abandon(ticket)
