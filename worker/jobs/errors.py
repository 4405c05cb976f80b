"""Errors that end a job, and how each is recorded.

* JobFailedError: the job fails, with a kind for the client and a reason for the metrics
  - InvalidJobError: the request can never succeed
  - FlaggedContentError: the content filter flagged its images
  - RowsFailedError: some of its images failed
  - TimedOutError: it took longer than its time limit
* JobEndedError: another process has ended the job, so nothing is recorded

Any other exception is a worker error: RQ retries the job.
"""

from __future__ import annotations

from contracts.jobs import FailureKind
from contracts.transitions import Reason


class JobFailedError(Exception):
    """The job fails and is not retried; the message is the detail that the client gets."""

    kind: FailureKind = "internal"
    reason: Reason = "error"


class InvalidJobError(JobFailedError):
    """The request can never succeed with this checkpoint."""

    kind = "invalid"
    reason = "invalid"


class FlaggedContentError(JobFailedError):
    """The content filter flagged input or output images."""

    kind = "content"
    reason = "content"


class RowsFailedError(JobFailedError):
    """Some of the job's images failed in the engine."""

    reason = "rows"


class TimedOutError(JobFailedError):
    """The job took longer than its time limit."""

    reason = "timeout"


class JobEndedError(Exception):
    """The job was cancelled, or another worker has ended it."""
