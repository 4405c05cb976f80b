"""Jobs and generated images."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx

from unclip_client.errors import JobCancelledError, JobFailedError
from unclip_client.events import Event, Preview, parse_sse, progress_bar

if TYPE_CHECKING:
    from PIL.Image import Image

    from unclip_client.client import Client

ENDED = ("succeeded", "failed", "cancelled")
RECONNECT_S = 1.0


class GeneratedImage:
    """An image of a job.

    Its PNG is fetched at the first access. As the input of another operation it is passed by
    reference, and never downloaded.
    """

    def __init__(self, client: Client, job_id: str, index: int, data: dict[str, Any]) -> None:
        self.client = client
        self.job_id = job_id
        self.index = index
        self.seed = int(data["seed"])
        self.width = int(data["width"])
        self.height = int(data["height"])

    @cached_property
    def content(self) -> bytes:
        """Return the PNG file."""
        return self.client.send("GET", f"/jobs/{self.job_id}/images/{self.index}.png").content

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Return everything needed to reproduce the image: prompt, seed, parameters, checkpoint."""
        path = f"/jobs/{self.job_id}/images/{self.index}.json"
        provenance: dict[str, Any] = self.client.send("GET", path).json()
        return provenance

    def to_pil(self) -> Image:
        """Return the image as a Pillow image; Pillow must be installed."""
        from PIL import Image

        return Image.open(io.BytesIO(self.content))

    def save(self, path: Path | str) -> Path:
        """Write the PNG file and return its path.

        Raises:
            ValueError: `path` does not end in .png.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise ValueError(f"{path}: images are saved as PNG: use {path.with_suffix('.png')}")
        path.write_bytes(self.content)
        return path


class Job:
    """A job of the service.

    Attributes:
        id: the job's id.
        data: the last response of GET /jobs/{job_id}; see the service's API reference.
    """

    def __init__(self, client: Client, data: dict[str, Any]) -> None:
        self.client = client
        self.data = data
        self.id = str(data["id"])
        self._images: list[GeneratedImage] = []

    def __repr__(self) -> str:
        return f"<Job {self.id}: {self.operation}, {self.status}>"

    @property
    def operation(self) -> str:
        """Return the operation's name, such as "generate"."""
        return str(self.data["operation"])

    @property
    def status(self) -> str:
        """Return "queued", "running", "succeeded", "failed" or "cancelled", as of `data`."""
        return str(self.data["status"])

    @property
    def parameters(self) -> dict[str, Any]:
        """Return the request's fields, with the values used for those left out."""
        return dict(self._field("parameters"))

    @property
    def warnings(self) -> list[str]:
        """Return deviations from the request, such as a truncated prompt."""
        return list(self._field("warnings"))

    @property
    def result(self) -> dict[str, Any] | None:
        """Return what is not an image: a probe's labels, an embedding."""
        result: dict[str, Any] | None = self._field("result")
        return result

    @property
    def images(self) -> list[GeneratedImage]:
        """Return the generated images; the list is empty until the job has succeeded."""
        images = self.data["images"]
        if len(self._images) != len(images):
            self._images = [
                GeneratedImage(self.client, self.id, index, data)
                for index, data in enumerate(images)
            ]
        return self._images

    @cached_property
    def animation(self) -> bytes:
        """Return the frames as one animated image.

        Raises:
            ProblemError: the job has no animation, or has not ended.
        """
        return self.client.send("GET", f"/jobs/{self.id}/animation").content

    def _field(self, name: str) -> Any:
        """Return a field that entries of GET /jobs leave out, with a second request if needed."""
        return self.data[name] if name in self.data else self.refresh().data[name]

    def refresh(self) -> Self:
        """Query the job's current state and return the job."""
        self.data = self.client.send("GET", f"/jobs/{self.id}").json()
        return self

    def cancel(self) -> Self:
        """Cancel the job if it waits or runs; an ended job stays as it is."""
        self.data = self.client.send("DELETE", f"/jobs/{self.id}").json()
        return self

    def wait(self, timeout: float | None = None) -> Self:
        """Wait until the job has succeeded, and return it.

        `timeout` is in seconds. It is checked at each line of the event stream, so a silent job
        may overrun it by up to 15 seconds.

        Raises:
            JobFailedError: the job failed.
            JobCancelledError: the job was cancelled.
            TimeoutError: the job has not ended; it continues.
        """
        if self.status not in ENDED:
            with progress_bar(self.client.progress) as show:
                for event in self.events(timeout=timeout):
                    show(event)
            self.refresh()
        if self.status == "failed":
            raise JobFailedError(self)
        if self.status == "cancelled":
            raise JobCancelledError(self)
        return self

    def events(self, *, previews: bool = False, timeout: float | None = None) -> Iterator[Event]:
        """Yield the job's events until "ended".

        A broken stream resumes after the last event: none is lost and none comes twice.

        Raises:
            TimeoutError: the job has not ended after `timeout` seconds; it continues.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        last_id: str | None = None
        while True:
            response = self._open_stream(previews, last_id)
            is_broken = False
            try:
                for event in parse_sse(_limit(response.iter_lines(), deadline)):
                    last_id = event.id or last_id
                    yield event
                    if event.name == "ended":
                        return
            except httpx.TransportError:
                is_broken = True
            finally:
                response.close()
            # The events of a job that ended long ago have expired, and the stream ends at once.
            if not is_broken and self.refresh().status in ENDED:
                yield Event(None, "ended", {"status": self.status})
                return
            _check_deadline(deadline)
            time.sleep(RECONNECT_S)

    def _open_stream(self, previews: bool, last_id: str | None) -> httpx.Response:
        return self.client.send(
            "GET",
            f"/jobs/{self.id}/events",
            params={"previews": previews},
            headers={"Last-Event-ID": last_id} if last_id else {},
            stream=True,
        )

    def previews(self) -> Iterator[Preview]:
        """Yield unfinished images while the job runs; the service renders them on request only."""
        for event in self.events(previews=True):
            if event.name == "preview":
                content = base64.b64decode(event.data["image"].partition(",")[2])
                yield Preview(event.data["index"], content, event.data["fraction"])

    def save(self, path: Path | str) -> list[Path]:
        """Write the job's images and return their paths.

        One image is written to `path`, several to path-0, path-1, and so on. A `path` that ends
        in .webp or .apng receives the animation instead.

        Raises:
            ValueError: there is nothing to write, or the job's animation has another format.
        """
        path = Path(path)
        if path.suffix.lower() in (".webp", ".apng"):
            return [self._save_animation(path)]
        if not self.images:
            raise ValueError(
                f"job {self.id} ({self.operation}, {self.status}) has no images to save"
            )
        if len(self.images) == 1:
            return [self.images[0].save(path)]
        return [image.save(path.with_stem(f"{path.stem}-{image.index}")) for image in self.images]

    def _save_animation(self, path: Path) -> Path:
        kind = (self._field("animation") or {}).get("format")
        if kind is None:
            raise ValueError(f"{path}: job {self.id} has no animation")
        if kind != path.suffix.lower()[1:]:
            raise ValueError(f"{path}: the animation is {kind}: use {path.with_suffix('.' + kind)}")
        path.write_bytes(self.animation)
        return path


def _limit(lines: Iterator[str], deadline: float | None) -> Iterator[str]:
    for line in lines:
        _check_deadline(deadline)
        yield line


def _check_deadline(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() > deadline:
        raise TimeoutError("the job has not ended within the timeout; it continues")
