"""What may go wrong, as exceptions that say so in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from unclip_client.job import Job


class UnclipError(Exception):
    """Any of them."""


class AwayError(UnclipError):
    """The service did not answer, however often it was asked."""


class ProblemError(UnclipError):
    """The service refused (RFC 9457). `errors`: what is wrong with which field, as {field, message, got}."""

    def __init__(self, answer: httpx.Response) -> None:
        """An answer that was read."""
        problem = answer.headers.get("content-type", "").startswith("application/problem+json")
        told: dict[str, Any] = answer.json() if problem else {}
        self.status: int = answer.status_code
        self.title: str = told.get("title", answer.reason_phrase)
        self.detail: str = told.get("detail", answer.text[:200])
        self.errors: list[dict[str, Any]] = told.get("errors", [])
        super().__init__(f"{self.status} {self.title}: {self.detail}")


class JobFailedError(UnclipError):
    """The job ended without images. `kind`: "invalid" where its request can never work, "content" where the
    service does not deliver what it shows, "internal" where the drawing failed."""

    def __init__(self, job: Job) -> None:
        error = job.data["error"]
        self.job = job
        self.kind = str(error["kind"])
        self.detail = str(error["detail"])
        super().__init__(f"job {job.id} failed: {self.detail}")


class JobCancelledError(UnclipError):
    """Somebody cancelled the job."""

    def __init__(self, job: Job) -> None:
        self.job = job
        super().__init__(f"job {job.id} was cancelled")
