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

from contracts.jobs import ENDED, Picture, Progress, Record
from contracts.operations import OPERATIONS
from models import Parameters, UnCLIP
from models.operations import Operation, Outcome
from worker.engine import Engine, Ticket
from worker.images import animation, png, tensor
from worker.operation import begin
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
        fields = OPERATIONS[found.operation].model_validate(found.request)
        pictures = {name: tensor(content) for name, content in record.inputs(found.inputs).items()}
        parameters = context.stack.resolve(found.operation, **fields.given_parameters())
        if not record.start(parameters.as_dict()):
            return  # another worker has just ended it
        outcome, cuts = _move(context, record, begin(context.stack, found.operation, fields, pictures, parameters))
    except (ValidationError, ValueError) as error:
        record.fail("invalid", str(error))
    except RowError as error:
        record.fail("internal", str(error))
    except JobTimeoutException:
        record.fail("internal", "the job took longer than this service allows: ask for fewer pictures or steps, or a smaller size")
    else:
        _finish(context, record, found, parameters, outcome, cuts)


class RowError(RuntimeError):
    """Some of a job's rows failed."""


def _move(context: Context, record: JobRecord, operation: Operation) -> tuple[Outcome, list[str]]:
    """Move an operation to its end by way of the engine, and tell how far it is. Gives what it came to, and what of its prompts
    CLIP did not read."""
    done, cuts = 0.0, dict[str, None]()
    while True:
        try:
            phase = next(operation)
        except StopIteration as end:
            return cast(Outcome, end.value), list(cuts)
        ticket = context.engine.submit(phase.rows)
        try:
            _follow(ticket, record, (done, phase.done))
        finally:
            context.engine.abandon(ticket)
        failed = [row for row in phase.rows if row.error is not None]
        if failed:
            raise RowError(f"{len(failed)} of {len(phase.rows)} pictures failed: {failed[0].error}")
        cuts |= {text: None for row in phase.rows for text in (row.cut, row.negative_cut) if text}
        done = phase.done


def _follow(ticket: Ticket, record: JobRecord, span: tuple[float, float]) -> None:
    """Wait for the rows, and tell how far the job is; `span`: its fraction before them and after them."""
    told, told_at = None, 0.0
    while not ticket.done.wait(POLL_S):
        row = ticket.slowest
        if row is None or row.stage is None or time.monotonic() - told_at < TELL_EVERY_S:
            continue
        progress = Progress(
            stage=row.stage, step=row.step, steps=row.steps, fraction=round(span[0] + (span[1] - span[0]) * ticket.fraction, 4)
        )
        if progress != told:
            record.progress(progress)
            told, told_at = progress, time.monotonic()


def _finish(context: Context, record: JobRecord, found: Record, parameters: Parameters, outcome: Outcome, cuts: list[str]) -> None:
    drawn = [(row, row.image) for row in outcome.rows if row.image is not None]
    pngs = [png(image, _provenance(context, found, row.seed, index, parameters)) for index, (row, image) in enumerate(drawn)]
    pictures = [Picture(seed=row.seed, width=image.shape[-1], height=image.shape[-2]) for row, image in drawn]
    warnings = [f"A prompt is longer than CLIP reads; cut was: {cut}" for cut in cuts]
    kind = found.request.get("animation")
    moving = animation([image for _, image in drawn], kind) if kind else None
    last = outcome.rows[-1] if outcome.rows else None
    stage, steps = (list(last.plan)[-1], last.steps) if last else ("image" if found.inputs else "text", 1)
    whole = Progress(stage=stage, step=steps, steps=steps, fraction=1.0)
    record.succeed(pngs, pictures, warnings, whole, result=outcome.result, animation=(kind, moving) if kind and moving else None)


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
