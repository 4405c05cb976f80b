"""The task that RQ calls: from a job's record to its pictures, by way of the engine."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import redis
from pydantic import ValidationError
from rq.timeouts import JobTimeoutException

from contracts.generate import GenerateRequest
from contracts.jobs import ENDED, Picture, Progress
from models import Parameters, Row, UnCLIP
from worker.engine import Engine, Ticket
from worker.images import png
from worker.record import JobRecord

log = logging.getLogger("worker.draw")
POLL_S = 0.05  # short: RQ's timeout is raised between two waits
TELL_EVERY_S = 0.2


@dataclass(frozen=True)
class Context:
    """What the process holds for all its jobs."""

    stack: UnCLIP
    engine: Engine
    connection: redis.Redis
    result_ttl: int


_context: Context | None = None


def install(context: Context | None) -> None:
    """Set what `draw` works with, once at the process's start. RQ calls it by name, so it cannot be handed over."""
    global _context
    _context = context


def draw(job_id: str) -> None:
    """Draw one job. Returns normally also where the job can never work, so that RQ does not try again."""
    if _context is None:
        raise RuntimeError("worker.draw has no context: run jobs by `python -m worker`")
    context = _context
    record = JobRecord(context.connection, job_id, context.result_ttl)
    found = record.read()
    if found is None or found.status in ENDED:
        log.info("job %s is gone or has ended: nothing to do", job_id)
        return
    try:
        request = GenerateRequest.model_validate(found.request)
        parameters = context.stack.resolve(**request.given_parameters())
    except (ValidationError, ValueError) as error:
        record.fail("invalid", str(error))
        return
    if not record.start(parameters.as_dict()):
        return  # another worker has just ended it
    seed = request.seed or 0  # the service has drawn one where the client gave none
    rows = [context.stack.row(request.prompt, seed + index, parameters) for index in range(request.n)]
    ticket = context.engine.submit(rows)
    try:
        _follow(ticket, record)
        _finish(context, record, request, rows, parameters)
    except JobTimeoutException:
        record.fail("internal", "the job took longer than this service allows: ask for fewer pictures or steps, or a smaller size")
    finally:
        context.engine.abandon(ticket)


def _follow(ticket: Ticket, record: JobRecord) -> None:
    """Wait for the rows, and tell how far they are."""
    told, told_at = None, 0.0
    while not ticket.done.wait(POLL_S):
        row = ticket.slowest
        if row is None or row.stage is None or time.monotonic() - told_at < TELL_EVERY_S:
            continue
        progress = Progress(stage=row.stage, step=row.step, steps=row.steps, fraction=round(ticket.fraction, 4))
        if progress != told:
            record.progress(progress)
            told, told_at = progress, time.monotonic()


def _finish(context: Context, record: JobRecord, request: GenerateRequest, rows: list[Row], parameters: Parameters) -> None:
    failed = [row for row in rows if row.image is None]
    if failed:
        record.fail("internal", f"{len(failed)} of {len(rows)} pictures failed: {failed[0].error}")
        return
    pngs = [png(row.image, _provenance(context, request.prompt, row.seed, parameters)) for row in rows if row.image is not None]
    pictures = [Picture(seed=row.seed, width=parameters.size, height=parameters.size) for row in rows]
    cuts = {"prompt": rows[0].cut, "negative prompt": rows[0].negative_cut}
    warnings = [f"The {which} is longer than CLIP reads; cut was: {cut}" for which, cut in cuts.items() if cut]
    stage, steps = list(rows[0].plan)[-1], parameters.upsampler_num_inference_steps
    steps = parameters.decoder_num_inference_steps if stage == "decoder" else steps
    record.succeed(pngs, pictures, warnings, Progress(stage=stage, step=steps, steps=steps, fraction=1.0))


def _provenance(context: Context, prompt: str, seed: int, parameters: Parameters) -> dict[str, Any]:
    """Everything needed to draw this one picture again."""
    return {
        "operation": "generate",
        "prompt": prompt,
        "seed": seed,
        "parameters": parameters.as_dict(),
        "checkpoint": context.stack.name,
        "version": version("unclip-service"),
    }
