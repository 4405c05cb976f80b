"""`python -m benchmarks.baselines.rq_workers simple|waiting|in-flight [paced]`: the same pipeline, queue and records behind the two usual ways of
serving a model, and the product's own; `paced` puts paced_worker's pipeline in.

*simple*: RQ's own SimpleWorker, one job at a time. *waiting*: batches formed by waiting, up to so many rows or so many milliseconds, and
run to their end before the next (what LitServe, Triton and others call dynamic batching).
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from rq import Queue, SimpleWorker
from rq.timeouts import TimerDeathPenalty

from benchmarks.baselines.simulated_worker import PacedPipeline
from contracts import redis_keys
from contracts.jobs import WorkerHeartbeat
from models import UnCLIP
from worker import __main__ as worker
from worker.engine.core import Engine
from worker.jobs import runner
from worker.jobs.cancellation import Cancellations
from worker.jobs.content_filter import ContentCheck
from worker.queue.worker import ALIVE_TTL_S, connect
from worker.settings import Settings

MAX_ROWS = 16
MAX_WAIT_S = 0.05


class WaitingEngine(Engine):
    """Collects rows for a while, then runs those, and only those, to their end."""

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._entries or self._stopping)
                deadline = time.monotonic() + MAX_WAIT_S
                while (
                    len(self._entries) < MAX_ROWS
                    and not self._stopping
                    and time.monotonic() < deadline
                ):
                    self._changed.wait(deadline - time.monotonic())
                if self._stopping:
                    return
                batch = self._entries[:MAX_ROWS]
            while moving := [
                entry
                for entry in batch
                if entry.row.stage is not None and not entry.ticket.abandoned
            ]:
                stage = moving[0].row.stage
                self._tick(
                    [entry for entry in moving if entry.row.stage == stage][
                        : self.limits[str(stage)]
                    ]
                )
            with self._changed:
                self._settle()


def simple(pipeline_class: type[UnCLIP]) -> None:
    """RQ's SimpleWorker with a loaded pipeline."""
    settings = Settings()
    prepared: Future[tuple[UnCLIP, Engine, ContentCheck | None]] = Future()
    threading.Thread(
        target=worker.own, args=(prepared, settings, pipeline_class, Engine), daemon=True
    ).start()
    pipeline, engine, _ = prepared.result()
    connection = connect(settings.redis_url)
    runner.install(
        runner.Context(
            pipeline, engine, connection, Cancellations(connection, engine), settings.result_ttl_s
        )
    )

    def beat() -> None:
        while True:
            connection.sadd(redis_keys.WORKERS, "simple")
            connection.set(
                redis_keys.worker("simple"),
                WorkerHeartbeat(pid=1, slots=1).model_dump_json(),
                ex=ALIVE_TTL_S,
            )
            time.sleep(2)

    threading.Thread(target=beat, daemon=True).start()
    SimpleWorker.death_penalty_class = TimerDeathPenalty
    queue = Queue(redis_keys.QUEUE, connection=connection, serializer="json")
    SimpleWorker([queue], connection=connection, serializer="json").work(logging_level="WARNING")


WAYS: dict[str, Callable[[type[UnCLIP]], None]] = {
    "in-flight": worker.main,
    "waiting": partial(worker.main, engine_class=WaitingEngine),
    "simple": simple,
}


if __name__ == "__main__":
    WAYS[sys.argv[1]](PacedPipeline if sys.argv[2:] == ["paced"] else UnCLIP)
