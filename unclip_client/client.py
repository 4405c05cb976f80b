"""The service, asked over HTTP: every operation as a method, and what keeps asking where the service is away or full."""

from __future__ import annotations

import base64
import io
import logging
import os
import random
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

import httpx

from unclip_client.errors import AwayError, ProblemError, UnclipError
from unclip_client.job import GeneratedImage, Job
from unclip_client.options import Edit, Generate, Interpolate, Probe, Queued, TextDiff, Variations

if TYPE_CHECKING:
    from PIL.Image import Image

    Source = str | Path | bytes | GeneratedImage | Job | Image
    """An image: a file's path, its bytes, as Pillow has it, or one that was drawn before (which is not sent again)."""

log = logging.getLogger("unclip_client")
AGAIN = (429, 502, 503, 504)  # full, away, or a proxy says so
SILENCE_S = 60.0  # events have a comment every 15 s, other answers take less: after so long the line is dead


class Operations(ABC):
    """What unCLIP can do. Options are those of `unclip_client/options.py`; what is left out is the checkpoint's to decide."""

    @abstractmethod
    def _do(self, path: str, asked: Mapping[str, Any]) -> Job: ...

    def generate(
        self,
        prompt: str | None = None,
        *,
        mix: Sequence[dict[str, Any]] | None = None,
        z_i: Sequence[float] | None = None,
        **options: Unpack[Generate],
    ) -> Job:
        """Draw a caption; or an image embedding `z_i`; or a `mix` of {"prompt", "image" or "z_i", "weight"}."""
        parts = mix and [
            part | {"image": _sent(part["image"])} if "image" in part else part for part in mix
        ]
        numbers = None if z_i is None else [float(number) for number in z_i]
        return self._do("/generate", {"prompt": prompt, "mix": parts, "z_i": numbers, **options})

    def variations(self, image: Source, **options: Unpack[Variations]) -> Job:
        """Draw an image again: at `eta` 0 the same, the larger the farther it strays."""
        return self._do("/variations", {"image": _sent(image), **options})

    def interpolate(
        self,
        *,
        image_a: Source | None = None,
        image_b: Source | None = None,
        prompt_a: str | None = None,
        prompt_b: str | None = None,
        **options: Unpack[Interpolate],
    ) -> Job:
        """Frames from one image or caption to another: of each end exactly one of the two."""
        ends = {
            "image_a": _sent(image_a),
            "image_b": _sent(image_b),
            "prompt_a": prompt_a,
            "prompt_b": prompt_b,
        }
        return self._do("/interpolate", {**ends, **options})

    def text_diff(self, image: Source, prompt_to: str, **options: Unpack[TextDiff]) -> Job:
        """Frames of an image that moves as `prompt_to` differs from `prompt_from`."""
        return self._do("/text-diff", {"image": _sent(image), "prompt_to": prompt_to, **options})

    def edit(
        self, image: Source, prompt: str, *, mask: Source | None = None, **options: Unpack[Edit]
    ) -> Job:
        """Redraw part of an image by a caption: where the mask is white, or without one where the image is transparent."""
        return self._do(
            "/edits", {"image": _sent(image), "mask": _sent(mask), "prompt": prompt, **options}
        )

    def probe(self, image: Source, **options: Unpack[Probe]) -> Job:
        """CLIP's probabilities of `labels` for an image (in `result`), and what its first principal `components` draw."""
        return self._do("/probe", {"image": _sent(image), **options})

    def embeddings(
        self, prompt: str | None = None, *, image: Source | None = None, **options: Unpack[Queued]
    ) -> Job:
        """The embedding of a caption or an image, in `result`."""
        return self._do("/embeddings", {"prompt": prompt, "image": _sent(image), **options})


class Client(Operations):
    """A service at a URL. Operations wait until their job has succeeded; those of `submit` do not. Threads may share one.

    An answer that got lost, 429 and 503 are tried again, as the service's Retry-After says, for `patience` seconds. Each operation
    has an Idempotency-Key of its own, so that being tried again never draws twice."""

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        patience: float = 120.0,
        progress: bool = False,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`url`, `api_key`: else from UNCLIP_URL and UNCLIP_API_KEY; else localhost:8000, and none. `progress`: whether waiting shows a
        bar, which needs tqdm. ValueError where the URL will not do."""
        url = url or os.environ.get("UNCLIP_URL") or "http://localhost:8000"
        if httpx.URL(url).scheme not in ("http", "https"):
            raise ValueError(f"the service's URL is {url!r}: it begins with http:// or https://")
        key = api_key or os.environ.get("UNCLIP_API_KEY")
        self.patience = patience
        self.progress = progress
        self.submit = Submitted(self)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.http = httpx.Client(
            base_url=url, headers=headers, timeout=SILENCE_S, transport=transport
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self.http.close()

    def _do(self, path: str, asked: Mapping[str, Any]) -> Job:
        return self.submit._do(path, asked).wait()

    def job(self, job_id: str) -> Job:
        """An earlier job. ProblemError 404 where there is none (any more)."""
        return Job(self, self.send("GET", f"/jobs/{job_id}").json())

    def jobs(self, **filters: str) -> Iterator[Job]:
        """All jobs, newest first; by `status`, `operation`, `created_after`, `created_before`."""
        cursor: dict[str, str] = {}
        while True:
            page = self.send("GET", "/jobs", params={**filters, "limit": 100, **cursor}).json()
            yield from (Job(self, data) for data in page["jobs"])
            if page["next"] is None:
                return
            cursor = {"cursor": page["next"]}

    def send(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        stream: bool = False,
    ) -> httpx.Response:
        """The service's answer, if it is a good one, however often it must be asked; unread where it is a `stream`. ProblemError where
        it refuses, AwayError where it does not answer."""
        deadline = time.monotonic() + self.patience
        pause = 0.5
        while True:
            try:
                request = self.http.build_request(
                    method, path, json=json, params=params, headers=headers
                )
                answer = self.http.send(request, stream=stream)
                if answer.is_success:
                    return answer
                answer.read()
            except httpx.TransportError as error:
                failure: UnclipError = AwayError(
                    f"{self.http.base_url} does not answer: {error or type(error).__name__}"
                )
                wait = pause * random.uniform(
                    1, 1.5
                )  # those who lost it together do not come back together
            else:
                answer.close()
                failure = ProblemError(answer)
                if answer.status_code not in AGAIN:
                    raise failure
                wait = _retry_after(answer) or pause
            if time.monotonic() + wait > deadline:
                raise failure
            log.warning("%s; asking again in %.1f s", failure, wait)
            time.sleep(wait)
            pause = min(pause * 2, 10.0)


class Submitted(Operations):
    """Operations that do not wait: the job is on its way."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def _do(self, path: str, asked: Mapping[str, Any]) -> Job:
        body = {name: value for name, value in asked.items() if value is not None}
        key = body.pop("idempotency_key", None) or uuid.uuid4().hex
        return Job(
            self.client,
            self.client.send("POST", path, json=body, headers={"Idempotency-Key": key}).json(),
        )


def _sent(image: Source | None) -> Any:
    """An image as it stands in a request."""
    if image is None:
        return None
    if isinstance(image, Job):
        if len(image.images) != 1:
            raise ValueError(
                f"{image} has {len(image.images)} images: give one of them, as job.images[0]"
            )
        (image,) = image.images
    if isinstance(image, GeneratedImage):
        return {"job": image.job_id, "index": image.index}
    if isinstance(image, str | Path):
        image = Path(image).read_bytes()
    if not isinstance(image, bytes):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        image = buffer.getvalue()
    return base64.b64encode(image).decode()


def _retry_after(answer: httpx.Response) -> float | None:
    """Seconds, where the header gives seconds."""
    try:
        return max(0.0, float(answer.headers["retry-after"]))
    except (KeyError, ValueError):  # none, or a date, which our service does not send
        return None
