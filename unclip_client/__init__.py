"""Python client of the service: `Client().generate("a red cube").save("out.png")`."""

from unclip_client.client import Client
from unclip_client.errors import (
    ConnectionFailedError,
    JobCancelledError,
    JobError,
    JobFailedError,
    ProblemError,
    UnclipError,
)
from unclip_client.events import Event, Preview
from unclip_client.job import GeneratedImage, Job

__all__ = [
    "Client",
    "ConnectionFailedError",
    "Event",
    "GeneratedImage",
    "Job",
    "JobCancelledError",
    "JobError",
    "JobFailedError",
    "Preview",
    "ProblemError",
    "UnclipError",
]
