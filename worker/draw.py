"""The task that RQ calls: from a job's record to its pictures, by way of the engine."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, cast

import redis
from pydantic import ValidationError
from rq.timeouts import JobTimeoutException

from contracts import keys
from contracts.jobs import ENDED, Picture, Progress, Record
from contracts.operations import OPERATIONS
from models import Parameters, UnCLIP
from models.operations import Operation, Outcome
from models.row import Row
from worker.cancel import Cancellations
from worker.engine import Engine, Ticket
from worker.images import animation, png, tensor
from worker.operation import begin
from worker.preview import previews
from worker.record import JobRecord
from worker.store import Store

log = logging.getLogger("worker.draw")
POLL_S = 0.05  # short: RQ's timeout is raised between two waits
TELL_EVERY_S = 0.2
SHOW_EVERY_S = 0.5
PACE_MOMENTUM = 0.2


@dataclass(frozen=True)
class Context:
    """What the process holds for all its jobs."""

    stack: UnCLIP
    engine: Engine
    connection: redis.Redis
    cancellations: Cancellations
    result_ttl: int
    store: Store | None = None


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
    record = JobRecord(context.connection, job_id, context.result_ttl, context.store)
    found = record.read()
    if found is None or found.status in ENDED:
        log.info("job %s is gone or has ended: nothing to do", job_id)
        return
    try:
        fields = OPERATIONS[found.operation].model_validate(found.request)
        pictures = {name: tensor(content) for name, content in record.inputs(found.inputs).items()}
        parameters = context.stack.resolve(found.operation, **fields.given_parameters())
        started = time.monotonic()
        if not record.start(parameters.as_dict()):
            return  # cancelled, or another worker has just ended it
        outcome, cuts = _move(context, record, found.priority, begin(context.stack, found.operation, fields, pictures, parameters))
    except (ValidationError, ValueError) as error:
        record.fail("invalid", str(error))
    except RowError as error:
        record.fail("internal", str(error))
    except CancelledError:
        log.info("job %s was cancelled", job_id)
    except JobTimeoutException:
        record.fail("internal", "the job took longer than this service allows: ask for fewer pictures or steps, or a smaller size")
    else:
        if _finish(context, record, found, parameters, outcome, cuts):
            _note_pace(context, keys.pace(found.operation, parameters.size), time.monotonic() - started)


class RowError(RuntimeError):
    """Some of a job's rows failed."""


class CancelledError(RuntimeError):
    """The job has ended meanwhile, by somebody else."""


def _move(context: Context, record: JobRecord, priority: int, operation: Operation) -> tuple[Outcome, list[str]]:
    """Move an operation to its end by way of the engine, and tell how far it is. Gives what it came to, and what of its prompts
    CLIP did not read."""
    done, cuts = 0.0, dict[str, None]()
    while True:
        try:
            phase = next(operation)
        except StopIteration as end:
            return cast(Outcome, end.value), list(cuts)
        ticket = context.engine.submit(phase.rows, priority)
        try:
            with context.cancellations.of(record.job_id, ticket):
                _follow(context, ticket, record, (done, phase.done))
        finally:
            context.engine.abandon(ticket)
        failed = [row for row in phase.rows if row.error is not None]
        if failed:
            raise RowError(f"{len(failed)} of {len(phase.rows)} pictures failed: {failed[0].error}")
        cuts |= {text: None for row in phase.rows for text in (row.cut, row.negative_cut) if text}
        done = phase.done


def _follow(context: Context, ticket: Ticket, record: JobRecord, span: tuple[float, float]) -> None:
    """Wait for the rows, and tell how far the job is; `span`: its fraction before them and after them. CancelledError where the job
    is not to be drawn any more."""
    told, told_at, shown_at = ("", 0), 0.0, 0.0
    while not ticket.done.wait(POLL_S):
        row, time_s = ticket.slowest, time.monotonic()
        if row is None or row.stage is None or (row.stage, row.step) == told or time_s - told_at < TELL_EVERY_S:
            continue
        progress = _progress(context, ticket, row, span)
        show = time_s - shown_at >= SHOW_EVERY_S and record.watched()
        if not record.progress(progress) or (show and not record.previews(previews(ticket.rows), progress)):
            raise CancelledError
        told, told_at, shown_at = (progress.stage, progress.step), time_s, time_s if show else shown_at
    if ticket.abandoned:
        raise CancelledError


def _progress(context: Context, ticket: Ticket, row: Row, span: tuple[float, float]) -> Progress:
    """How far the job is, by its slowest row. Rows of later phases are taken to go at the pace of these."""
    fraction, eta = ticket.fraction, context.engine.eta(ticket)
    whole = span[0] + (span[1] - span[0]) * fraction
    if eta is not None and fraction < 1:
        eta = round(eta * (1 - whole) / ((span[1] - span[0]) * (1 - fraction)), 3)
    return Progress(stage=str(row.stage), step=row.step, steps=row.steps, fraction=round(whole, 4), eta_seconds=eta)


def _note_pace(context: Context, field: str, seconds: float) -> None:
    """For estimates of when waiting jobs will end: a running mean of how long jobs of this kind run, and of how long any does."""
    fields = (field, keys.pace("any", None))
    for name, before in zip(fields, context.connection.hmget(keys.PACE, fields), strict=True):
        mean = seconds if before is None else float(before) + PACE_MOMENTUM * (seconds - float(before))
        context.connection.hset(keys.PACE, name, f"{mean:.4f}")


def _finish(context: Context, record: JobRecord, found: Record, parameters: Parameters, outcome: Outcome, cuts: list[str]) -> bool:
    drawn = [(row, row.image) for row in outcome.rows if row.image is not None]
    pngs = [png(image, _provenance(context, found, row.seed, index, parameters)) for index, (row, image) in enumerate(drawn)]
    pictures = [Picture(seed=row.seed, width=image.shape[-1], height=image.shape[-2]) for row, image in drawn]
    warnings = [f"A prompt is longer than CLIP reads; cut was: {cut}" for cut in cuts]
    kind = found.request.get("animation")
    moving = animation([image for _, image in drawn], kind) if kind else None
    last = outcome.rows[-1] if outcome.rows else None
    stage, steps = (list(last.plan)[-1], last.steps) if last else ("image" if found.inputs else "text", 1)
    whole = Progress(stage=stage, step=steps, steps=steps, fraction=1.0)
    return record.succeed(pngs, pictures, warnings, whole, result=outcome.result, animation=(kind, moving) if kind and moving else None)


def _provenance(context: Context, found: Record, seed: int, index: int, parameters: Parameters) -> dict[str, Any]:
    """Everything needed to draw this one picture again, but for the pictures that came with the request."""
    request = {
        name: value for name, value in found.request.items() if value is not None and name not in ("n", "seed", *parameters.as_dict())
    }
    return {
        "operation": found.operation,
        **request,
        "seed": seed,
        "index": index,
        "parameters": parameters.as_dict(),
        "checkpoint": context.stack.name,
        "version": version("unclip-service"),
    }
