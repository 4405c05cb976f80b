"""`python -m benchmarks.rival_workers simple|waiting`: the same stack, queue and records behind the two usual ways of serving a model.

*simple*: RQ's own SimpleWorker, one job at a time. *waiting*: batches formed by waiting, up to so many rows or so many milliseconds, and
run to their end before the next (what LitServe, Triton and others call dynamic batching).
"""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import Future

from rq import Queue, SimpleWorker
from rq.timeouts import TimerDeathPenalty

from contracts import keys
from contracts.jobs import Beat
from models import UnCLIP
from worker import __main__ as worker
from worker import draw
from worker.cancel import Cancellations
from worker.content import ContentCheck
from worker.engine import Engine
from worker.rq_worker import ALIVE_TTL_S, connect
from worker.settings import Settings

MAX_ROWS, MAX_WAIT_S = 16, 0.05


class WaitingEngine(Engine):
    """Collects rows for a while, then runs those, and only those, to their end."""

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._entries or self._stopping)
                deadline = time.monotonic() + MAX_WAIT_S
                while len(self._entries) < MAX_ROWS and not self._stopping and time.monotonic() < deadline:
                    self._changed.wait(deadline - time.monotonic())
                if self._stopping:
                    return
                batch = self._entries[:MAX_ROWS]
            while moving := [entry for entry in batch if entry.row.stage is not None and not entry.ticket.abandoned]:
                stage = moving[0].row.stage
                self._tick([entry for entry in moving if entry.row.stage == stage][: self.limits[str(stage)]])
            with self._changed:
                self._settle()


def waiting() -> None:
    """The product's worker with that engine."""
    worker.main(engine_class=WaitingEngine)


def simple() -> None:
    """RQ's SimpleWorker with a loaded stack."""
    settings = Settings()
    prepared: Future[tuple[UnCLIP, Engine, ContentCheck | None]] = Future()
    threading.Thread(target=worker.own, args=(prepared, settings, UnCLIP, Engine), daemon=True).start()
    stack, engine, _ = prepared.result()
    connection = connect(settings.redis_url)
    draw.install(draw.Context(stack, engine, connection, Cancellations(connection, engine), settings.result_ttl))

    def beat() -> None:
        while True:
            connection.sadd(keys.WORKERS, "simple")
            connection.set(keys.worker("simple"), Beat(pid=1, slots=1).model_dump_json(), ex=ALIVE_TTL_S)
            time.sleep(2)

    threading.Thread(target=beat, daemon=True).start()
    SimpleWorker.death_penalty_class = TimerDeathPenalty
    queue = Queue(keys.QUEUE, connection=connection, serializer="json")
    SimpleWorker([queue], connection=connection, serializer="json").work(logging_level="WARNING")


if __name__ == "__main__":
    {"simple": simple, "waiting": waiting}[sys.argv[1]]()
