"""`python -m worker`: load the pipeline, then draw what the queue holds. With `redraw` and a PNG: draw that again."""

from __future__ import annotations

import argparse
import logging
import sys
import threading
import time
from concurrent.futures import Future

from infra import logging as logs
from infra import tracing
from infra.object_store import ObjectStore
from infra.redis import wait_for_redis
from infra.settings import load_or_exit
from models import UnCLIP
from worker import metrics, reproduce
from worker.cleanup import start_cleanup_thread
from worker.engine.core import Engine, batch_limits
from worker.engine.memory import fitted, keep_freed_memory, meter_of
from worker.engine.warmup import record_passes
from worker.jobs import runner
from worker.jobs.cancellation import Cancellations
from worker.jobs.content_filter import ContentCheck, read
from worker.queue.worker import ThreadWorker, connect
from worker.settings import Settings
from worker.startup import load

log = logging.getLogger("worker")
# Copying a network to the device takes about as long as a few steps, so it stays for more than a few.
OFFLOADED_PATIENCE = 32


def main(pipeline_class: type[UnCLIP] = UnCLIP, engine_class: type[Engine] = Engine) -> None:
    """Check the settings, load and warm up the pipeline, work until told to stop. Benchmarks put other classes in."""
    settings = load_or_exit(Settings)
    logs.configure(settings.log_level, settings.log_format, "worker")
    try:
        tracing.start("unclip-worker")
    except RuntimeError as error:
        sys.exit(str(error))
    keep_freed_memory()
    prepared: Future[tuple[UnCLIP, Engine, ContentCheck | None]] = Future()
    threading.Thread(
        target=own,
        args=(prepared, settings, pipeline_class, engine_class),
        name="engine",
        daemon=True,
    ).start()
    pipeline, engine, content = prepared.result()
    metrics.watch(engine)
    metrics.describe(pipeline.name, str(pipeline.device))
    if settings.worker_metrics_port:
        metrics.serve(settings.worker_metrics_port)
    wait_for_redis(settings.redis_url)
    connection = connect(settings.redis_url)
    cancellations = Cancellations(connection, engine)
    cancellations.start()
    store = ObjectStore(settings.object_store_url) if settings.object_store_url else None
    if store is not None:
        start_cleanup_thread(store, connection, settings.result_ttl_s)
    runner.install(
        runner.Context(
            pipeline, engine, connection, cancellations, settings.result_ttl_s, store, content
        )
    )
    worker = ThreadWorker(
        connection,
        slots=settings.jobs_at_once,
        result_ttl=settings.result_ttl_s,
        checkpoint=pipeline.name,
        on_beat=metrics.beat,
    )
    worker.work(logging_level="WARNING")
    cancellations.stop()
    engine.stop()


def own(
    prepared: Future[tuple[UnCLIP, Engine, ContentCheck | None]],
    settings: Settings,
    pipeline_class: type[UnCLIP],
    engine_class: type[Engine],
) -> None:
    """Load the pipeline and be its engine's thread. On a CPU one thread has to do both: OpenMP (libgomp) counts the helpers of every thread
    that ever shared its work, and where they are more than cores it puts them to sleep between two operations, for 36 ms a step in place
    of 22 on two cores."""
    try:
        made = prepare(settings, pipeline_class, engine_class)
    except BaseException as error:  # SystemExit too: it is the main thread that ends the process
        prepared.set_exception(error)
        return
    prepared.set_result(made)
    made[1].run()


def prepare(
    settings: Settings, pipeline_class: type[UnCLIP], engine_class: type[Engine]
) -> tuple[UnCLIP, Engine, ContentCheck | None]:
    """The pipeline, ready to draw; its engine, which does not run yet; and the check of what it draws, where there is one."""
    started = time.perf_counter()
    pipeline = load(settings, pipeline_class)
    try:
        content = (
            ContentCheck(pipeline, read(settings.content_check)) if settings.content_check else None
        )
    except ValueError as error:
        sys.exit(f"The content check will not do: {error}")
    pipeline.prepack()
    pipeline.warm_up()
    limits = fitted(batch_limits(settings.max_batch), pipeline, meter_of(pipeline.device))
    if settings.cuda_graphs:  # only now: passes that are played back take no memory to be measured
        pipeline.enable_cuda_graphs()
    if pipeline.graphs is not None:
        record_passes(pipeline, limits)
    patience = 1 if pipeline.offloader is None else OFFLOADED_PATIENCE
    engine = engine_class(
        pipeline, limits, metrics.observe, patience=patience, on_error=metrics.failed
    )
    log.info(
        "checkpoint %s on %s, sizes %s, ready after %.1f s",
        pipeline.name,
        pipeline.device,
        pipeline.sizes,
        time.perf_counter() - started,
    )
    return pipeline, engine, content


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m worker", description="Draws what the queue holds, until told to stop."
    )
    reproduce.add_command(parser.add_subparsers(title="instead", metavar="COMMAND"))
    arguments = parser.parse_args()
    if "run" in arguments:
        sys.exit(arguments.run(arguments))
    main()
