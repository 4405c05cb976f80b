"""A job as the client holds it: to wait for, watch, cancel, and take images from."""

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
from unclip_client.events import Event, Preview, bar, parsed

if TYPE_CHECKING:
    from PIL.Image import Image

    from unclip_client.client import Client

ENDED = ("succeeded", "failed", "cancelled")
AGAIN_S = 1.0


class GeneratedImage:
    """A drawn image. It is fetched when it is first asked for; handed to another operation it stays where it is."""

    def __init__(self, client: Client, job_id: str, index: int, data: dict[str, Any]) -> None:
        self.client = client
        self.job_id = job_id
        self.index = index
        self.seed = int(data["seed"])
        self.width = int(data["width"])
        self.height = int(data["height"])

    @cached_property
    def content(self) -> bytes:
        """The PNG."""
        return self.client.send("GET", f"/jobs/{self.job_id}/images/{self.index}.png").content

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """How it was drawn, with nothing left open."""
        told: dict[str, Any] = self.client.send(
            "GET", f"/jobs/{self.job_id}/images/{self.index}.json"
        ).json()
        return told

    def image(self) -> Image:
        """As Pillow has it, which must be installed."""
        from PIL import Image

        return Image.open(io.BytesIO(self.content))

    def save(self, path: Path | str) -> Path:
        """Write the PNG. ValueError for a name that says something else."""
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise ValueError(
                f"{path} will not do: images are PNGs, so name it {path.with_suffix('.png')}, or convert image()"
            )
        path.write_bytes(self.content)
        return path


class Job:
    """A request on its way to images. `data` is what the service told of it last; see its GET /jobs/{job_id}."""

    def __init__(self, client: Client, data: dict[str, Any]) -> None:
        self.client = client
        self.data = data
        self.id = str(data["id"])
        self._images: list[GeneratedImage] = []

    def __repr__(self) -> str:
        return f"<Job {self.id}: {self.operation}, {self.status}>"

    @property
    def operation(self) -> str:
        """Such as generate."""
        return str(self.data["operation"])

    @property
    def status(self) -> str:
        """Queued, running, succeeded, failed or cancelled, when it was last asked."""
        return str(self.data["status"])

    @property
    def parameters(self) -> dict[str, Any]:
        """The request, and what was used for what it left open."""
        return dict(self._whole("parameters"))

    @property
    def warnings(self) -> list[str]:
        """What was not done as asked."""
        return list(self._whole("warnings"))

    @property
    def result(self) -> dict[str, Any] | None:
        """What was found beside images: a probe's labels, an embedding."""
        found: dict[str, Any] | None = self._whole("result")
        return found

    @property
    def images(self) -> list[GeneratedImage]:
        """Those it has drawn: none before it has succeeded."""
        images = self.data["images"]
        if len(self._images) != len(images):
            self._images = [
                GeneratedImage(self.client, self.id, index, data)
                for index, data in enumerate(images)
            ]
        return self._images

    @cached_property
    def animation(self) -> bytes:
        """The frames as one animated image. ProblemError where none was asked for, or not yet."""
        return self.client.send("GET", f"/jobs/{self.id}/animation").content

    def _whole(self, name: str) -> Any:
        """A field that lists of jobs leave out."""
        return self.data[name] if name in self.data else self.refresh().data[name]

    def refresh(self) -> Self:
        """Ask how it stands."""
        self.data = self.client.send("GET", f"/jobs/{self.id}").json()
        return self

    def cancel(self) -> Self:
        """End it, waiting or running. One that has ended stays as it is."""
        self.data = self.client.send("DELETE", f"/jobs/{self.id}").json()
        return self

    def wait(self, timeout: float | None = None) -> Self:
        """Wait until it has succeeded, at most so many seconds (to the next 15, when the line is silent). JobFailedError or
        JobCancelledError where it did not succeed, TimeoutError where it has not ended."""
        if self.status not in ENDED:
            with bar(self.client.progress) as tell:
                for event in self.events(timeout=timeout):
                    tell(event)
            self.refresh()
        if self.status == "failed":
            raise JobFailedError(self)
        if self.status == "cancelled":
            raise JobCancelledError(self)
        return self

    def events(self, *, previews: bool = False, timeout: float | None = None) -> Iterator[Event]:
        """What happens, as it does, to `ended`. A line that breaks is taken up where it broke, so nothing is missed or told twice."""
        deadline = None if timeout is None else time.monotonic() + timeout
        last: str | None = None
        while True:
            headers = {"Last-Event-ID": last} if last else {}
            answer = self.client.send(
                "GET",
                f"/jobs/{self.id}/events",
                params={"previews": previews},
                headers=headers,
                stream=True,
            )
            broken = False
            try:
                for event in parsed(_until(deadline, answer.iter_lines())):
                    last = event.id or last
                    yield event
                    if event.name == "ended":
                        return
            except httpx.TransportError:
                broken = True
            finally:
                answer.close()
            if (
                not broken and self.refresh().status in ENDED
            ):  # so long ago that its events are gone
                yield Event(None, "ended", {"status": self.status})
                return
            _not_after(deadline)
            time.sleep(AGAIN_S)

    def previews(self) -> Iterator[Preview]:
        """The images so far, while it is drawn. The service makes them only while somebody looks."""
        for event in self.events(previews=True):
            if event.name == "preview":
                content = base64.b64decode(event.data["image"].partition(",")[2])
                yield Preview(event.data["index"], content, event.data["fraction"])

    def save(self, path: Path | str) -> list[Path]:
        """Write its images: one as `path`, several as path-0, path-1, …; where `path` ends in .webp or .apng, the animation instead.
        Gives the paths. ValueError where there is nothing to write."""
        path = Path(path)
        if path.suffix.lower() in (".webp", ".apng"):
            kind = (self._whole("animation") or {}).get("format")
            if kind != path.suffix.lower()[1:]:
                raise ValueError(
                    f"{path} will not do: the job has {f'its animation as {kind}' if kind else 'no animation'}"
                )
            path.write_bytes(self.animation)
            return [path]
        if not self.images:
            raise ValueError(
                f"job {self.id} ({self.operation}, {self.status}) has no images to save"
            )
        if len(self.images) == 1:
            return [self.images[0].save(path)]
        return [image.save(path.with_stem(f"{path.stem}-{image.index}")) for image in self.images]


def _until(deadline: float | None, lines: Iterator[str]) -> Iterator[str]:
    """Lines as they come, to the deadline."""
    for line in lines:
        _not_after(deadline)
        yield line


def _not_after(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() > deadline:
        raise TimeoutError("the job has not ended in the time given; it goes on")
