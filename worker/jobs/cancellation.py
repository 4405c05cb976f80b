"""Cancellation of running jobs: their rows leave the engine before its next step."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from contracts import redis_keys
from worker.engine.core import Engine
from worker.engine.tickets import Ticket

log = logging.getLogger("worker.jobs.cancellation")
POLL_S = 1.0


class CancellationListener:
    """Cancel the tickets of jobs whose ids arrive on a Redis channel.

    A message is lost while the connection is down. Then the job's next progress update notices:
    it is refused, because the job has ended.
    """

    def __init__(self, connection: Redis, engine: Engine) -> None:
        self.redis = connection
        self.engine = engine
        self._tickets: dict[str, Ticket] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="cancellations", daemon=True)

    def start(self) -> None:
        """Start listening in a new thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and wait for the thread."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    @contextmanager
    def cancelling(self, job_id: str, ticket: Ticket) -> Iterator[None]:
        """Cancel the ticket if the job is cancelled inside the `with` block."""
        self._tickets[job_id] = ticket
        try:
            yield
        finally:
            del self._tickets[job_id]

    def _listen(self) -> None:
        while not self._stopped.is_set():
            try:
                with self.redis.pubsub(ignore_subscribe_messages=True) as channel:
                    channel.subscribe(redis_keys.CANCELLED)
                    while not self._stopped.is_set():
                        self._handle(channel.get_message(timeout=POLL_S))
            except RedisError as error:
                log.warning("cancellations are delayed until Redis answers again: %s", error)
                self._stopped.wait(POLL_S)

    def _handle(self, message: dict[str, Any] | None) -> None:
        ticket = self._tickets.get(message["data"].decode()) if message else None
        if ticket is not None:
            self.engine.cancel(ticket)
