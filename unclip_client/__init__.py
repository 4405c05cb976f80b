"""The service from Python: `Client().generate("a red cube").save("out.png")`. Needs httpx alone."""

from unclip_client.client import Client
from unclip_client.errors import (
    AwayError,
    JobCancelledError,
    JobFailedError,
    ProblemError,
    UnclipError,
)
from unclip_client.events import Event, Preview
from unclip_client.job import GeneratedImage, Job

__all__ = [
    "AwayError",
    "Client",
    "Event",
    "GeneratedImage",
    "Job",
    "JobCancelledError",
    "JobFailedError",
    "Preview",
    "ProblemError",
    "UnclipError",
]
