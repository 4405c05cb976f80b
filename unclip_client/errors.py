"""Errors of the client.

* UnclipError
  - ConnectionFailedError   the service did not answer
  - ProblemError            the service rejected the request
  * JobError                the job ended without images
    - JobFailedError
    - JobCancelledError
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from unclip_client.job import Job


class UnclipError(Exception):
    """Base class of all errors of the client."""


class ConnectionFailedError(UnclipError):
    """The service did not answer, after all retries."""


class ProblemError(UnclipError):
    """The service rejected a request with a problem document (RFC 9457).

    Attributes:
        status: HTTP status.
        title: short name of the problem.
        detail: what is wrong with this request.
        errors: one dict with `field`, `message` and `got` for each invalid field.
    """

    def __init__(self, response: httpx.Response) -> None:
        """Parse a response whose body has been read."""
        media_type = response.headers.get("content-type", "")
        is_problem = media_type.startswith("application/problem+json")
        problem: dict[str, Any] = response.json() if is_problem else {}
        self.status: int = response.status_code
        self.title: str = problem.get("title", response.reason_phrase)
        self.detail: str = problem.get("detail", response.text[:200])
        self.errors: list[dict[str, Any]] = problem.get("errors", [])
        super().__init__(f"{self.status} {self.title}: {self.detail}")


class JobError(UnclipError):
    """A job ended without images."""

    def __init__(self, job: Job, message: str) -> None:
        self.job = job
        super().__init__(message)


class JobFailedError(JobError):
    """A job failed.

    Attributes:
        kind: "invalid" if the request can never succeed, "content" if the content filter blocked
            it, "internal" if the worker failed.
        detail: the reason, as the service reports it.
    """

    def __init__(self, job: Job) -> None:
        error = job.data["error"]
        self.kind = str(error["kind"])
        self.detail = str(error["detail"])
        super().__init__(job, f"job {job.id} failed: {self.detail}")


class JobCancelledError(JobError):
    """A job was cancelled."""

    def __init__(self, job: Job) -> None:
        super().__init__(job, f"job {job.id} was cancelled")
