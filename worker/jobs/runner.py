"""The task that RQ calls: from a job's record to its images, by way of the engine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import cast

import redis
import structlog
from pydantic import ValidationError
from rq.timeouts import JobTimeoutException

from contracts import redis_keys
from contracts.fields import BatchFields
from contracts.images import image_digest
from contracts.jobs import ENDED, FailureKind, ImageInfo, Progress, Record, now
from contracts.operations import OPERATIONS
from contracts.transitions import Reason
from infra.object_store import ObjectStore
from models import Parameters, UnCLIP
from models.operations import Operation, Outcome
from models.row import Row
from worker import metrics, tracing
from worker.engine.core import Engine, Ticket
from worker.jobs.cancellation import Cancellations
from worker.jobs.content_filter import ContentCheck, ContentError
from worker.jobs.images import animation, png, tensor
from worker.jobs.operations import begin
from worker.jobs.previews import previews
from worker.jobs.provenance import provenance
from worker.jobs.record import JobRecord

log = structlog.stdlib.get_logger("worker.jobs.runner")
POLL_S = 0.05  # short: RQ's timeout is raised between two waits
TELL_EVERY_S = 0.2
SHOW_EVERY_S = 0.5
PACE_MOMENTUM = 0.2


@dataclass(frozen=True)
class Context:
    """What the process holds for all its jobs."""

    pipeline: UnCLIP
    engine: Engine
    connection: redis.Redis
    cancellations: Cancellations
    result_ttl: int
    store: ObjectStore | None = None
    content: ContentCheck | None = None


_context: Context | None = None


def install(context: Context | None) -> None:
    """Set what `draw` works with, once at the process's start. RQ calls it by name, so it cannot be handed over."""
    global _context
    _context = context


def draw(job_id: str) -> None:
    """Draw one job. Returns normally also where the job can never work, so that RQ does not try again."""
    if _context is None:
        raise RuntimeError("worker.jobs.runner has no context: run jobs by `python -m worker`")
    context = _context
    record = JobRecord(context.connection, job_id, context.result_ttl, context.store)
    found = record.read()
    # The thread is this job's alone: its later lines are its own too.
    structlog.contextvars.bind_contextvars(
        job_id=job_id, request_id=found.request_id if found else None
    )
    if found is None or found.status in ENDED:
        log.info("job is gone or has ended: nothing to do")
        return
    with tracing.drawing(job_id, found):
        _draw(context, record, found)


def _draw(context: Context, record: JobRecord, found: Record) -> None:
    """The same, of a record that was read."""
    try:
        fields = OPERATIONS[found.operation].model_validate(found.request)
        inputs = record.inputs(found.inputs)
        images = {name: tensor(content) for name, content in inputs.items()}
        parameters = context.pipeline.resolve(found.operation, **fields.given_parameters())
        started = time.monotonic()
        if not record.start(parameters.as_dict()):
            return  # cancelled, or another worker has just ended it
        if found.started_at is None:
            metrics.waited(found.operation, (now() - found.created_at).total_seconds())
        log.info("job started", operation=found.operation)
        operation = begin(context.pipeline, found.operation, fields, images, parameters)
        if context.content is not None:
            operation = context.content.guard(
                operation, images, parameters, singly=isinstance(fields, BatchFields)
            )
        outcome, cuts = _move(context, record, found.priority, operation)
    except (ValidationError, ValueError) as error:
        _fail(record, "invalid", str(error), "invalid")
    except ContentError as error:
        _fail(record, "content", str(error), "content")
    except RowError as error:
        _fail(record, "internal", str(error), "rows")
    except CancelledError:
        log.info("job cancelled")
    except JobTimeoutException:
        why = "the job took longer than this service allows: ask for fewer images or steps, or a smaller size"
        _fail(record, "internal", why, "timeout")
    else:
        digests = {name: image_digest(content) for name, content in inputs.items()}
        if _finish(context, record, found, parameters, outcome, cuts, digests):
            seconds = time.monotonic() - started
            log.info("job succeeded", seconds=round(seconds, 3))
            metrics.drawn(found.operation, seconds)
            _note_pace(context, redis_keys.mean_duration(found.operation, parameters.size), seconds)


def _fail(record: JobRecord, kind: FailureKind, detail: str, reason: Reason) -> None:
    """End it so. What is invalid is quoted in the detail, and no caption goes into the log."""
    tracing.failed(reason)
    if record.fail(kind, detail, reason):
        log.warning(
            "job failed", kind=kind, reason=reason, detail=None if kind == "invalid" else detail
        )


class RowError(RuntimeError):
    """Some of a job's rows failed."""


class CancelledError(RuntimeError):
    """The job has ended meanwhile, by somebody else."""


def _move(
    context: Context, record: JobRecord, priority: int, operation: Operation
) -> tuple[Outcome, list[str]]:
    """Move an operation to its end by way of the engine, and tell how far it is. Gives what it came to, and what of its prompts
    CLIP did not read."""
    done = 0.0
    cuts = dict[str, None]()
    while True:
        try:
            phase = next(operation)
        except StopIteration as end:
            return cast(Outcome, end.value), list(cuts)
        ticket = context.engine.submit(phase.rows, priority)
        try:
            with context.cancellations.of(record.job_id, ticket):
                _follow(context, ticket, record, (done, phase.progress))
        finally:
            context.engine.abandon(ticket)
            tracing.stages(ticket)
        failed = [row for row in phase.rows if row.error is not None]
        if failed:
            raise RowError(f"{len(failed)} of {len(phase.rows)} images failed: {failed[0].error}")
        cuts |= {text: None for row in phase.rows for text in (row.truncated_prompt, row.truncated_negative_prompt) if text}
        done = phase.progress


def _follow(context: Context, ticket: Ticket, record: JobRecord, span: tuple[float, float]) -> None:
    """Wait for the rows, and tell how far the job is; `span`: its fraction before them and after them. CancelledError where the job
    is not to be drawn any more."""
    told = ("", 0)
    told_at = 0.0
    shown_at = 0.0
    while not ticket.done.wait(POLL_S):
        row = ticket.slowest
        time_s = time.monotonic()
        if (
            row is None
            or row.stage is None
            or (row.stage, row.step) == told
            or time_s - told_at < TELL_EVERY_S
        ):
            continue
        progress = _progress(context, ticket, row, span)
        # A preview would show what the content check has yet to look at.
        show = context.content is None and time_s - shown_at >= SHOW_EVERY_S and record.watched()
        if not record.progress(progress) or (
            show and not record.previews(previews(ticket.rows), progress)
        ):
            raise CancelledError
        told = (progress.stage, progress.step)
        told_at = time_s
        shown_at = time_s if show else shown_at
    if ticket.abandoned:
        raise CancelledError


def _progress(context: Context, ticket: Ticket, row: Row, span: tuple[float, float]) -> Progress:
    """How far the job is, by its slowest row. Rows of later phases are taken to go at the pace of these."""
    fraction = ticket.fraction
    eta = context.engine.eta(ticket)
    whole = span[0] + (span[1] - span[0]) * fraction
    if eta is not None and fraction < 1:
        eta = round(eta * (1 - whole) / ((span[1] - span[0]) * (1 - fraction)), 3)
    return Progress(
        stage=str(row.stage),
        step=row.step,
        steps=row.steps,
        fraction=round(whole, 4),
        eta_seconds=eta,
    )


def _note_pace(context: Context, field: str, seconds: float) -> None:
    """For estimates of when waiting jobs will end: a running mean of how long jobs of this kind run, and of how long any does."""
    fields = (field, redis_keys.mean_duration("any", None))
    for name, before in zip(
        fields, context.connection.hmget(redis_keys.MEAN_DURATIONS, fields), strict=True
    ):
        mean = (
            seconds if before is None else float(before) + PACE_MOMENTUM * (seconds - float(before))
        )
        context.connection.hset(redis_keys.MEAN_DURATIONS, name, f"{mean:.4f}")


def _finish(
    context: Context,
    record: JobRecord,
    found: Record,
    parameters: Parameters,
    outcome: Outcome,
    cuts: list[str],
    digests: dict[str, str],
) -> bool:
    drawn = [(row, row.image) for row in outcome.rows if row.image is not None]
    pngs = [
        png(
            image,
            provenance(
                context.pipeline, found.operation, found.request, row, index, parameters, digests
            ),
        )
        for index, (row, image) in enumerate(drawn)
    ]
    images = [
        ImageInfo(seed=row.seed, width=image.shape[-1], height=image.shape[-2])
        for row, image in drawn
    ]
    warnings = [
        *(f"A prompt is longer than CLIP reads; cut was: {cut}" for cut in cuts),
        *outcome.warnings,
    ]
    kind = found.request.get("animation")
    moving = animation([image for _, image in drawn], kind) if kind else None
    last = outcome.rows[-1] if outcome.rows else None
    stage, steps = (
        (list(last.stage_costs)[-1], last.steps) if last else ("image" if found.inputs else "text", 1)
    )
    whole = Progress(stage=stage, step=steps, steps=steps, fraction=1.0)
    return record.succeed(
        pngs,
        images,
        warnings,
        whole,
        result=outcome.result,
        animation=(kind, moving) if kind and moving else None,
    )
