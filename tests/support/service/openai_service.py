"""A service over a socket with OpenAI's own client, and a worker played by a thread.

`tests/journey` has a real worker.
"""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis
import uvicorn
from openai import OpenAI
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from contracts import redis_keys
from contracts.jobs import ImageInfo, JobRecord, Progress
from devtools.ports import free_port
from devtools.wait import wait_until
from service.api.problems import problem_response
from service.app import create_app
from service.security.headers import wrap_app
from service.settings import Settings
from worker.jobs.record import JobRepository

TIMEOUT_S = 60.0
PROMPT = "a red cube"
LAST = Progress(stage="decoder", step=6, steps=6, fraction=1.0)


def input_png(
    size: int | tuple[int, int], hole: bool = False, mode: str = "RGBA", fill: str = "red"
) -> bytes:
    """Return a PNG of one colour; with a hole its left half is transparent."""
    width, height = (size, size) if isinstance(size, int) else size
    image = Image.new(mode, (width, height), fill)
    if hole:
        image.paste((0, 0, 0, 0), (0, 0, width // 2, height))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def generated_png(width_px: int, seed: int) -> bytes:
    """Return a PNG as a worker makes it: with provenance, and pixels that depend on the seed."""
    image = Image.radial_gradient("L").resize((width_px, width_px)).convert("RGB")
    ImageDraw.Draw(image).text((8, 8), str(seed), "red")
    info = PngInfo()
    info.add_text("unclip", json.dumps({"seed": seed}))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def load_image(content: bytes | str) -> Image.Image:
    """Decode an image from a file or from its base64."""
    file = base64.b64decode(content) if isinstance(content, str) else content
    image = Image.open(io.BytesIO(file))
    image.load()
    return image


@dataclass
class ServiceUnderTest:
    """A running service, its Redis, and a client of OpenAI's for it."""

    client: OpenAI
    url: str
    redis_url: str

    def __post_init__(self) -> None:
        self.redis: Any = redis.Redis.from_url(self.redis_url)

    def next_job(self) -> str:
        """Wait for a job, and take it out of the queue."""
        return str(wait_until(lambda: self.redis.lpop(redis_keys.QUEUE_LIST)).decode())

    def job(self, job_id: str) -> JobRepository:
        """Return a worker's view of a job."""
        return JobRepository(self.redis, job_id, 100)

    def record(self, job_id: str) -> JobRecord:
        """Return the present record of a job."""
        record = self.job(job_id).read()
        assert record is not None
        return record

    def request(self, job_id: str) -> dict[str, Any]:
        """Return the fields of a job's request."""
        return self.record(job_id).spec.request.model_dump()

    def status(self, job_id: str) -> str:
        """Return the status of a job."""
        return self.record(job_id).status

    def generate(self, job_id: str) -> None:
        """End a job with its images."""
        request = self.request(job_id)
        width_px = request["size"] or 64
        seeds = [request["seed"] + index for index in range(request["n"])]
        job = self.job(job_id)
        job.start({"size": width_px})
        infos = [ImageInfo(seed=seed, width=width_px, height=width_px) for seed in seeds]
        pngs = [generated_png(width_px, seed) for seed in seeds]
        assert job.succeed(pngs, infos, [], LAST)

    def call(
        self, call: Callable[[], Any], work: Callable[[str], Any] | None = None
    ) -> tuple[Any, str]:
        """Make a call while a thread does the work of its job.

        work: takes the job's id; by default it ends the job with its images.
        Returns the call's result and the job's id.
        """
        ids: list[str] = []

        def run() -> None:
            ids.append(self.next_job())
            (work or self.generate)(ids[0])

        thread = threading.Thread(target=run)
        thread.start()
        try:
            return call(), ids[0] if ids else ""
        finally:
            thread.join(TIMEOUT_S)


@contextmanager
def running_service(
    redis_url: str, change: Callable[[Any], None] = lambda app: None, **fields: Any
) -> Iterator[ServiceUnderTest]:
    """Run a service in a thread. `change` may add routes to its app."""
    settings = Settings(redis_url=redis_url, **fields)
    app = create_app(settings)
    change(app)
    asgi_app = wrap_app(app, settings, problem_response)
    port = free_port()
    config = uvicorn.Config(asgi_app, port=port, log_level="critical", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    url = f"http://127.0.0.1:{port}"
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S) as client:
        service = ServiceUnderTest(client, url, redis_url)
        try:
            yield service
        finally:
            service.redis.close()
            server.should_exit = True
            thread.join(TIMEOUT_S)
