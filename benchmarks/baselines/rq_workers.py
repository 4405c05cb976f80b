"""`python -m benchmarks.baselines.rq_workers MODE [simulated]`: three ways to serve one pipeline.

The queue, the job records and the pipeline are the product's in all of them:

- continuous: the product's worker, with continuous batching.
- dynamic: dynamic batching, as LitServe and Triton do it. Rows are collected up to MAX_ROWS or for
  MAX_WAIT_S, and run to their end before the next batch.
- sequential: RQ's SimpleWorker, one job at a time.

`simulated` replaces the pipeline by that of `simulated_worker.py`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import redis
from rq import Queue, SimpleWorker
from rq.timeouts import TimerDeathPenalty

from benchmarks.baselines.simulated_worker import SimulatedPipeline
from contracts import redis_keys
from contracts.jobs import WorkerHeartbeat
from models import UnCLIP
from worker import __main__ as worker
from worker.engine.core import Engine
from worker.engine.scheduler import Batch, Entry
from worker.jobs.cancellation import CancellationListener
from worker.jobs.runner import JobRunner
from worker.queue.heartbeats import HEARTBEAT_TTL_S
from worker.queue.worker import connect_patiently, job_class_for
from worker.settings import Settings
from worker.startup import start_engine

MAX_ROWS = 16
MAX_WAIT_S = 0.05
HEARTBEAT_INTERVAL_S = 2.0


class DynamicBatchingEngine(Engine):
    """Collect rows for a while, then run these, and only these, to their end."""

    def _run_steps(self) -> None:
        while entries := self._collect():
            while running := _running(entries):
                stage = running[0].row.stage
                same_stage = [entry for entry in running if entry.row.stage == stage]
                self._execute(Batch.from_entries(same_stage[: self.limits[str(stage)]]))
            with self._changed:
                self._finish_rows()

    def _collect(self) -> Sequence[Entry]:
        """Wait for rows and return the next batch; it is empty when the engine stops."""
        with self._changed:
            self._changed.wait_for(lambda: self._entries or self._is_stopping)
            deadline = time.monotonic() + MAX_WAIT_S
            while len(self._entries) < MAX_ROWS and not self._is_stopping:
                remaining_s = deadline - time.monotonic()
                if remaining_s <= 0:
                    break
                self._changed.wait(remaining_s)
            return [] if self._is_stopping else self._entries[:MAX_ROWS]


def _running(entries: Sequence[Entry]) -> list[Entry]:
    return [
        entry for entry in entries if entry.row.stage is not None and not entry.ticket.is_cancelled
    ]


def run_sequential_worker(pipeline_class: type[UnCLIP]) -> None:
    """Run RQ's SimpleWorker around a loaded pipeline."""
    settings = Settings()
    setup = start_engine(settings, pipeline_class)
    connection = connect_patiently(settings.redis_url)
    runner = JobRunner(
        setup.pipeline,
        setup.engine,
        connection,
        CancellationListener(connection, setup.engine),
        settings.result_ttl_s,
    )
    threading.Thread(target=_send_heartbeats, args=(connection,), daemon=True).start()
    SimpleWorker.death_penalty_class = TimerDeathPenalty
    job_class = job_class_for(runner)
    queue = Queue(redis_keys.QUEUE, connection=connection, serializer="json", job_class=job_class)
    sequential_worker = SimpleWorker(
        [queue], connection=connection, serializer="json", job_class=job_class
    )
    sequential_worker.work(logging_level="WARNING")


def _send_heartbeats(connection: redis.Redis) -> None:
    """Register this process as the product's worker does, so that the service is ready."""
    heartbeat = WorkerHeartbeat(pid=os.getpid(), slots=1).model_dump_json()
    while True:
        connection.sadd(redis_keys.WORKERS, "sequential")
        connection.set(redis_keys.worker("sequential"), heartbeat, ex=HEARTBEAT_TTL_S)
        time.sleep(HEARTBEAT_INTERVAL_S)


SERVING_MODES: dict[str, Callable[[type[UnCLIP]], None]] = {
    "continuous": worker.main,
    "dynamic": partial(worker.main, engine_class=DynamicBatchingEngine),
    "sequential": run_sequential_worker,
}


if __name__ == "__main__":
    mode, *options = sys.argv[1:]
    SERVING_MODES[mode](SimulatedPipeline if options == ["simulated"] else UnCLIP)
