"""Run a job: read its record, run its operation on the engine, and write its result."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import redis
import structlog
from rq.timeouts import JobTimeoutException
from torch import Tensor

from contracts import redis_keys
from contracts.fields import BatchFields
from contracts.images import image_digest
from contracts.jobs import ENDED, JobRecord
from infra.object_store import ObjectStore
from infra.redis import server_time
from models import Parameters, UnCLIP
from models.operations import Operation, Outcome, Phase, drive
from worker import metrics, tracing
from worker.engine.core import Engine
from worker.jobs.cancellation import CancellationListener
from worker.jobs.content_filter import ContentFilter
from worker.jobs.errors import (
    InvalidJobError,
    JobEndedError,
    JobFailedError,
    RowsFailedError,
    TimedOutError,
)
from worker.jobs.images import decode_png
from worker.jobs.operations import start_operation
from worker.jobs.progress import ProgressReporter
from worker.jobs.record import JobRepository
from worker.jobs.results import encode_result

log = structlog.stdlib.get_logger("worker.jobs.runner")


@dataclass(frozen=True)
class JobRunner:
    """Run the jobs of this process; `run` may be called by several threads."""

    pipeline: UnCLIP
    engine: Engine
    connection: redis.Redis
    cancellations: CancellationListener
    result_ttl_s: int
    store: ObjectStore | None = None
    content_filter: ContentFilter | None = None

    def run(self, job_id: str) -> None:
        """Run one job to its end.

        It also returns normally if the job fails for good, so that RQ does not retry it. Any
        exception is a worker error.
        """
        jobs = JobRepository(self.connection, job_id, self.result_ttl_s, self.store)
        try:
            record = jobs.record
        except InvalidJobError as error:
            structlog.contextvars.bind_contextvars(job_id=job_id)
            _fail(jobs, error)
            return
        # The thread runs this job alone, so its later log lines carry these too.
        structlog.contextvars.bind_contextvars(
            job_id=job_id, request_id=record.spec.request_id if record else None
        )
        if record is None or record.status in ENDED:
            log.info("job is deleted or has ended; nothing to do")
            return
        with tracing.job_span(job_id, record.spec.operation, record.spec.trace):
            JobRun(self, jobs, record).run()


@dataclass
class JobRun:
    """One attempt at a job."""

    runner: JobRunner
    jobs: JobRepository
    record: JobRecord
    started_at: float = 0.0
    progress: float = 0.0
    input_digests: dict[str, str] = field(default_factory=dict)
    # Parts of prompts that did not fit CLIP, each once; the values are unused.
    truncated_texts: dict[str, None] = field(default_factory=dict)
    # What each word that training never saw was drawn as, each once.
    unknown_words: dict[str, None] = field(default_factory=dict)

    def run(self) -> None:
        """Generate the images and record how the job ended."""
        try:
            parameters, outcome = self._generate()
        except JobFailedError as error:
            _fail(self.jobs, error)
        except JobEndedError:
            log.info("job cancelled")
        else:
            self._succeed(parameters, outcome)

    def _generate(self) -> tuple[Parameters, Outcome]:
        """Start the job's operation and run it to its end.

        Raises JobFailedError if the job fails for good, JobEndedError if it has ended elsewhere.
        """
        try:
            parameters, operation = self._start()
            return parameters, drive(operation, self._run_phase)
        except JobTimeoutException as error:
            if not self.started_at:
                # All the time went into waiting for Redis, so RQ retries the job.
                raise
            raise TimedOutError(
                "The job exceeded this service's time limit. "
                "Request fewer images or steps, or a smaller size."
            ) from error
        except ValueError as error:
            raise InvalidJobError(str(error)) from error

    def _start(self) -> tuple[Parameters, Operation]:
        """Validate the request, set the job running, and return its operation."""
        if self.record.invalid_reason is not None:
            raise InvalidJobError(self.record.invalid_reason)
        spec = self.record.spec
        name = spec.operation
        pipeline = self.runner.pipeline
        inputs = self.jobs.read_inputs(spec.inputs)
        images: dict[str, Tensor] = {key: decode_png(content) for key, content in inputs.items()}
        self.input_digests = {key: image_digest(content) for key, content in inputs.items()}
        parameters = pipeline.resolve(name, **spec.request.requested_parameters())
        if not self.jobs.start(parameters.as_dict()):
            raise JobEndedError
        self.started_at = time.monotonic()
        if self.record.started_at is None:
            wait_s = (server_time(self.runner.connection) - spec.created_at).total_seconds()
            metrics.observe_queue_wait(name, wait_s)
        log.info("job started", operation=name)
        operation = start_operation(pipeline, name, spec.request, images, parameters)
        if self.runner.content_filter is not None:
            operation = self.runner.content_filter.guard(
                operation, images, parameters, drop_flagged=isinstance(spec.request, BatchFields)
            )
        return parameters, operation

    def _run_phase(self, phase: Phase) -> None:
        """Run the rows of one phase on the engine, and publish progress meanwhile."""
        runner = self.runner
        ticket = runner.engine.submit(phase.rows, self.record.spec.request.priority)
        reporter = ProgressReporter(
            self.jobs,
            runner.engine,
            ticket,
            self.progress,
            phase.progress,
            # A preview would show what the content filter has not checked yet.
            with_previews=runner.content_filter is None,
        )
        try:
            with runner.cancellations.cancelling(self.jobs.job_id, ticket):
                reporter.wait()
        finally:
            # Also after a timeout, which RQ raises in the middle of the wait.
            runner.engine.cancel(ticket)
            tracing.add_stage_spans(ticket.stage_times, len(ticket.rows))
        failed = [row for row in phase.rows if row.error is not None]
        if failed:
            raise RowsFailedError(
                f"{len(failed)} of {len(phase.rows)} images failed: {failed[0].error}"
            )
        for row in phase.rows:
            for text in (row.truncated_prompt, row.truncated_negative_prompt):
                if text:
                    self.truncated_texts[text] = None
            self.unknown_words |= dict.fromkeys(map(str, row.unknown_words))
        self.progress = phase.progress

    def _succeed(self, parameters: Parameters, outcome: Outcome) -> None:
        operation = self.record.spec.operation
        result = encode_result(
            self.runner.pipeline,
            operation,
            self.record.spec.request.to_dict(),
            parameters,
            self.input_digests,
            outcome,
            list(self.truncated_texts),
            list(self.unknown_words),
        )
        if not self.jobs.succeed(
            result.pngs,
            result.images,
            result.warnings,
            result.progress,
            result.result,
            result.animation,
        ):
            log.info("job had ended before its result was written")
            return
        seconds = time.monotonic() - self.started_at
        log.info("job succeeded", seconds=round(seconds, 3))
        metrics.observe_job(operation, seconds)
        self.jobs.update_mean_durations(
            redis_keys.mean_duration(operation, parameters.size), seconds
        )


def _fail(jobs: JobRepository, error: JobFailedError) -> None:
    """Record that the job failed, in its record, its trace and the log."""
    tracing.mark_failed(error.reason)
    detail = str(error)
    if jobs.fail(error.kind, detail, error.reason):
        log.warning(
            "job failed",
            kind=error.kind,
            reason=error.reason,
            # The detail of an invalid request may quote a prompt, which the log must not.
            detail=None if error.kind == "invalid" else detail,
        )
