"""Progress of a running job: wait for its rows, and publish how far they are."""

from __future__ import annotations

import time

from contracts.jobs import Progress
from models.row import Row
from worker.engine.core import Engine
from worker.engine.tickets import Ticket
from worker.jobs.errors import JobEndedError
from worker.jobs.previews import make_previews
from worker.jobs.record import JobRepository

# RQ raises its timeout between two waits, so they are short.
POLL_S = 0.05
PROGRESS_INTERVAL_S = 0.2
PREVIEW_INTERVAL_S = 0.5


class ProgressReporter:
    """Publish the progress of one phase of a job while the engine runs its rows."""

    def __init__(
        self,
        jobs: JobRepository,
        engine: Engine,
        ticket: Ticket,
        start: float,
        stop: float,
        *,
        with_previews: bool,
    ) -> None:
        """`start`, `stop`: progress of the whole job before and after this phase."""
        self.jobs = jobs
        self.engine = engine
        self.ticket = ticket
        self.start = start
        self.stop = stop
        self.with_previews = with_previews
        self._published_step: tuple[str | None, int] = ("", 0)
        self._published_at = 0.0
        self._previewed_at = 0.0

    def wait(self) -> None:
        """Wait until every row has ended. Raises JobEndedError if the job has ended instead."""
        while not self.ticket.done.wait(POLL_S):
            row = self.ticket.slowest_row
            now_s = time.monotonic()
            if row is None or now_s - self._published_at < PROGRESS_INTERVAL_S:
                continue
            progress = self._progress(row)
            if progress is None or (progress.stage, progress.step) == self._published_step:
                continue
            self._publish(progress, now_s)
        if self.ticket.is_cancelled:
            raise JobEndedError

    def _publish(self, progress: Progress, now_s: float) -> None:
        if not self.jobs.update_progress(progress):
            raise JobEndedError
        self._published_step = (progress.stage, progress.step)
        self._published_at = now_s
        if not self.with_previews or now_s - self._previewed_at < PREVIEW_INTERVAL_S:
            return
        if self.jobs.is_preview_subscribed():
            self._previewed_at = now_s
            if not self.jobs.publish_previews(make_previews(self.ticket.rows), progress):
                raise JobEndedError

    def _progress(self, row: Row) -> Progress | None:
        """Return the job's progress by its slowest row; None if that row has just ended.

        Rows of later phases count as running at the speed of these.
        """
        stage = row.stage
        if stage is None:
            return None
        phase_fraction = self.ticket.fraction
        fraction = self.start + (self.stop - self.start) * phase_fraction
        eta_s = self.engine.remaining_seconds(self.ticket)
        if eta_s is not None and phase_fraction < 1:
            phase_left = (self.stop - self.start) * (1 - phase_fraction)
            eta_s = round(eta_s * (1 - fraction) / phase_left, 3)
        return Progress(
            stage=stage,
            step=row.step,
            steps=row.steps,
            fraction=round(fraction, 4),
            eta_seconds=eta_s,
        )
