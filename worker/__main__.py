"""`python -m worker`: load the stack, then draw what the queue holds."""

from __future__ import annotations

import logging
import sys
import time

import torch
from prometheus_client import start_http_server
from pydantic import ValidationError

from models import CheckpointError, UnCLIP
from worker import draw, metrics
from worker.cancel import Cancellations
from worker.engine import Engine, batch_limits
from worker.rq_worker import ThreadWorker, connect, wait_for_redis
from worker.settings import Settings
from worker.store import Store, sweep_beside

log = logging.getLogger("worker")
# Copying a network to the device takes about as long as a few steps, so it stays for more than a few.
OFFLOADED_PATIENCE = 32


def main(stack_class: type[UnCLIP] = UnCLIP, engine_class: type[Engine] = Engine) -> None:
    """Check the settings, load and warm up the stack, work until told to stop. Benchmarks put other classes in."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = Settings()
    except ValidationError as error:
        faults = "\n".join(f"  UNCLIP_{str(e['loc'][0]).upper()}: {e['msg']}, got {e['input']!r}" for e in error.errors())
        sys.exit(f"The settings will not do:\n{faults}")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if settings.device == "auto" else settings.device
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for CUDA
        sys.exit(f"The device will not do: UNCLIP_DEVICE is {device!r}, and torch says: {str(error).splitlines()[0]}")
    started = time.perf_counter()
    try:
        # A CPU's memory is the host's: there is nowhere to wait.
        budget = None if settings.device_memory is None or torch.device(device).type == "cpu" else settings.device_memory * 2**20
        stack = stack_class.load(
            settings.checkpoint, device, getattr(torch, settings.dtype), upsampler=settings.upsampler, device_memory=budget
        )
    except CheckpointError as error:
        sys.exit(f"The checkpoint will not do: {error}")
    engine = engine_class(stack, batch_limits(settings.max_batch), metrics.observe, patience=1 if budget is None else OFFLOADED_PATIENCE)
    stack.warm_up()
    log.info("checkpoint %s on %s, sizes %s, ready after %.1f s", stack.name, device, stack.sizes, time.perf_counter() - started)
    metrics.watch(engine)
    if settings.worker_metrics_port:
        start_http_server(settings.worker_metrics_port)
    url = str(settings.redis_url)
    wait_for_redis(url)
    connection = connect(url)
    engine.start()
    cancellations = Cancellations(connection, engine)
    cancellations.start()
    store = Store(settings.store) if settings.store else None
    if store is not None:
        sweep_beside(store, connection, settings.result_ttl)
    draw.install(draw.Context(stack, engine, connection, cancellations, settings.result_ttl, store))
    ThreadWorker(connection, slots=settings.jobs_at_once, result_ttl=settings.result_ttl).work(logging_level="WARNING")
    cancellations.stop()
    engine.stop()


if __name__ == "__main__":
    main()
