"""URLs of a job."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class JobUrls:
    """Make the URLs of one job.

    `base_url`: URL of the service, without a slash at the end. `link`: token that opens the job's
    images without an API key; None if the job has none.
    """

    base_url: str
    job_id: str
    link: str | None = None

    @property
    def job(self) -> str:
        """URL of the job itself."""
        return f"{self.base_url}/jobs/{self.job_id}"

    @property
    def events(self) -> str:
        """URL of the job's events."""
        return f"{self.job}/events"

    @property
    def animation(self) -> str:
        """URL of the job's animation."""
        return f"{self.job}/animation{self._query}"

    def image(self, index: int) -> str:
        """Return the URL of an image."""
        return f"{self.job}/images/{index}.png{self._query}"

    @property
    def _query(self) -> str:
        return f"?link={self.link}" if self.link else ""
