"""Start-up of a worker: load the pipeline that the settings name, and build its engine."""

from __future__ import annotations

import logging
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass

import torch

from models import CheckpointError, UnCLIP
from worker.engine.core import Engine
from worker.engine.memory import batch_limits, fit_batch_limits, memory_meter
from worker.engine.observer import MetricsObserver
from worker.engine.warmup import capture_graphs
from worker.jobs.content_filter import Concepts, ContentFilter, read_concepts
from worker.settings import Settings

log = logging.getLogger("worker")
# Loading a network onto the device takes about as long as a few steps, so it stays for many more.
MIN_STEPS_WITH_OFFLOADING = 32


@dataclass(frozen=True)
class EngineSetup:
    """An engine with its pipeline and the content filter that uses both."""

    pipeline: UnCLIP
    engine: Engine
    content_filter: ContentFilter | None


def start_engine(
    settings: Settings,
    pipeline_class: type[UnCLIP] = UnCLIP,
    engine_class: type[Engine] = Engine,
) -> EngineSetup:
    """Load the pipeline and start its engine in a new thread; return when it takes rows.

    Exits the process with a message if a setting does not work here.
    """
    ready: Future[EngineSetup] = Future()
    threading.Thread(
        target=run_engine_thread,
        args=(ready, settings, pipeline_class, engine_class),
        name="engine",
        daemon=True,
    ).start()
    return ready.result()


def run_engine_thread(
    ready: Future[EngineSetup],
    settings: Settings,
    pipeline_class: type[UnCLIP],
    engine_class: type[Engine],
) -> None:
    """Build the engine, pass it on through `ready`, and run it in this thread.

    One thread must do both on a CPU. libgomp keeps one thread pool per calling thread; with more
    pool threads than cores they sleep between operations (36 ms a step instead of 22 on two cores).
    """
    try:
        setup = build_engine(settings, pipeline_class, engine_class)
    except BaseException as error:
        # SystemExit too: only the main thread can end the process with it.
        ready.set_exception(error)
        return
    ready.set_result(setup)
    setup.engine.run()


def build_engine(
    settings: Settings, pipeline_class: type[UnCLIP], engine_class: type[Engine]
) -> EngineSetup:
    """Load and warm up the pipeline, and build its engine and content filter."""
    started_at = time.perf_counter()
    concepts = load_concepts(settings)
    pipeline = load_pipeline(settings, pipeline_class)
    content_filter = None
    if concepts is not None:
        try:
            content_filter = ContentFilter(pipeline, concepts)
        except ValueError as error:
            sys.exit(f"Invalid UNCLIP_CONTENT_FILTER: {error}")
    pipeline.prepack()
    pipeline.warm_up()
    limits = fit_batch_limits(
        batch_limits(settings.max_batch_size), pipeline, memory_meter(pipeline.device)
    )
    # After measuring memory, because replayed graphs allocate none.
    if settings.cuda_graphs:
        pipeline.enable_cuda_graphs()
    if pipeline.graphs is not None:
        capture_graphs(pipeline, limits)
    min_steps = 1 if pipeline.offloader is None else MIN_STEPS_WITH_OFFLOADING
    engine = engine_class(pipeline, limits, MetricsObserver(), min_steps_per_network=min_steps)
    log.info(
        "checkpoint %s on %s, sizes %s, ready after %.1f s",
        pipeline.name,
        pipeline.device,
        pipeline.sizes,
        time.perf_counter() - started_at,
    )
    return EngineSetup(pipeline, engine, content_filter)


def load_pipeline(settings: Settings, pipeline_class: type[UnCLIP] = UnCLIP) -> UnCLIP:
    """Load the pipeline onto its device; exit with a message if device or checkpoint fail."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        # An AssertionError means that torch was built without CUDA.
        sys.exit(f"Cannot use UNCLIP_DEVICE={device!r}: {str(error).splitlines()[0]}")
    budget_bytes = None
    # A CPU computes in host memory, so there is nothing to offload.
    if settings.offload_budget_mib is not None and torch.device(device).type != "cpu":
        budget_bytes = settings.offload_budget_mib * 2**20
    try:
        return pipeline_class.load(
            settings.checkpoint,
            device,
            getattr(torch, settings.dtype),
            upsampler=settings.upsampler,
            offload_budget_bytes=budget_bytes,
        )
    except CheckpointError as error:
        sys.exit(f"Cannot load checkpoint: {error}")


def load_concepts(settings: Settings) -> Concepts | None:
    """Read the file of UNCLIP_CONTENT_FILTER; exit with a message if it is not valid."""
    if settings.content_filter is None:
        return None
    try:
        return read_concepts(settings.content_filter)
    except ValueError as error:
        sys.exit(
            f"Invalid settings:\n  UNCLIP_CONTENT_FILTER: {error}, "
            f"got {str(settings.content_filter)!r}"
        )
