"""Command line of the worker: `python -m worker` runs jobs until it is stopped.

`python -m worker reproduce image.png` generates an image again from its own provenance.
"""

from __future__ import annotations

import argparse
import sys

from infra import logging as logs
from infra import tracing
from infra.object_store import ObjectStore
from infra.redis import wait_for_redis
from infra.settings import load_or_exit
from models import UnCLIP
from worker import metrics, reproduce
from worker.cleanup import start_cleanup_thread
from worker.engine.core import Engine
from worker.engine.memory import tune_malloc
from worker.jobs.cancellation import CancellationListener
from worker.jobs.runner import JobRunner
from worker.queue.worker import ThreadWorker, connect_patiently
from worker.settings import Settings
from worker.startup import start_engine
from worker.vocabulary import publish_vocabulary


def main(pipeline_class: type[UnCLIP] = UnCLIP, engine_class: type[Engine] = Engine) -> None:
    """Load the pipeline and run jobs until stopped. Benchmarks pass other classes."""
    settings = load_or_exit(Settings)
    logs.configure(settings.log_level, settings.log_format, "worker")
    try:
        tracing.start("unclip-worker")
    except RuntimeError as error:
        sys.exit(str(error))
    tune_malloc()
    setup = start_engine(settings, pipeline_class, engine_class)
    pipeline = setup.pipeline
    engine = setup.engine
    metrics.watch_engine(lambda: engine.num_rows, engine.limits)
    metrics.set_build_info(pipeline.name, str(pipeline.device))
    if settings.worker_metrics_port:
        metrics.serve(settings.worker_metrics_port)
    wait_for_redis(settings.redis_url)
    connection = connect_patiently(settings.redis_url)
    cancellations = CancellationListener(connection, engine)
    cancellations.start()
    store = ObjectStore(settings.object_store_url) if settings.object_store_url else None
    if store is not None:
        start_cleanup_thread(store, connection, settings.result_ttl_s)
    runner = JobRunner(
        pipeline,
        engine,
        connection,
        cancellations,
        settings.result_ttl_s,
        store,
        setup.content_filter,
    )
    publish_vocabulary(pipeline.checkpoint, connection)
    worker = ThreadWorker(
        connection,
        runner=runner,
        slots=settings.max_concurrent_jobs,
        result_ttl_s=settings.result_ttl_s,
        checkpoint=pipeline.name,
        on_heartbeat=metrics.record_heartbeat,
    )
    worker.work(logging_level="WARNING")
    cancellations.stop()
    engine.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m worker", description="Run queued jobs until stopped."
    )
    reproduce.add_command(parser.add_subparsers(title="commands", metavar="COMMAND"))
    arguments = parser.parse_args()
    if "run" in arguments:
        sys.exit(arguments.run(arguments))
    main()
