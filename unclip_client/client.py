"""The client: every operation as a method, with retries while the service is down or full."""

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

from unclip_client.errors import ConnectionFailedError, ProblemError, UnclipError
from unclip_client.job import GeneratedImage, Job
from unclip_client.options import (
    EditOptions,
    GenerateOptions,
    InterpolateOptions,
    ProbeOptions,
    QueueOptions,
    TextDiffOptions,
    VariationsOptions,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    ImageSource = str | Path | bytes | GeneratedImage | Job | Image
    """A file's path, a file's bytes, a Pillow image, or an earlier image (sent by reference)."""

log = logging.getLogger("unclip_client")
DEFAULT_URL = "http://localhost:8000"
RETRY_STATUSES = (429, 502, 503, 504)  # full, or down, as the service or a proxy reports it
FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 10.0
# Event streams send a comment every 15 s and other responses take less: longer means a dead line.
READ_TIMEOUT_S = 60.0
PAGE_SIZE = 100


class Operations(ABC):
    """Operations of the service.

    Keyword options are declared in `unclip_client/options.py`. The checkpoint decides about those
    left out.
    """

    @abstractmethod
    def _run(self, path: str, fields: Mapping[str, Any]) -> Job: ...

    def generate(
        self,
        prompt: str | None = None,
        *,
        mix: Sequence[dict[str, Any]] | None = None,
        z_i: Sequence[float] | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Job:
        """Generate images from a prompt, an image embedding or a mixture.

        Args:
            prompt: a text.
            mix: dicts with "prompt", "image" or "z_i", and optionally "weight".
            z_i: a CLIP image embedding, from `embeddings`.
            options: see `GenerateOptions`.
        """
        fields: dict[str, Any] = {"prompt": prompt, **options}
        if mix is not None:
            fields["mix"] = [_encode_part(part) for part in mix]
        if z_i is not None:
            fields["z_i"] = [float(number) for number in z_i]
        return self._run("/generate", fields)

    def variations(self, image: ImageSource, **options: Unpack[VariationsOptions]) -> Job:
        """Generate variations of an image: equal to it at `eta` 0, farther from it at 1."""
        return self._run("/variations", {"image": _encode(image), **options})

    def interpolate(
        self,
        *,
        image_a: ImageSource | None = None,
        image_b: ImageSource | None = None,
        prompt_a: str | None = None,
        prompt_b: str | None = None,
        **options: Unpack[InterpolateOptions],
    ) -> Job:
        """Generate frames from one image or prompt to another.

        Each end, a and b, is either an image or a prompt.
        """
        ends = {
            "image_a": _encode(image_a),
            "image_b": _encode(image_b),
            "prompt_a": prompt_a,
            "prompt_b": prompt_b,
        }
        return self._run("/interpolate", {**ends, **options})

    def text_diff(
        self, image: ImageSource, prompt_to: str, **options: Unpack[TextDiffOptions]
    ) -> Job:
        """Generate frames of an image that changes as `prompt_to` differs from `prompt_from`."""
        fields = {"image": _encode(image), "prompt_to": prompt_to, **options}
        return self._run("/text-diff", fields)

    def edit(
        self,
        image: ImageSource,
        prompt: str,
        *,
        mask: ImageSource | None = None,
        **options: Unpack[EditOptions],
    ) -> Job:
        """Regenerate part of an image from a prompt.

        The part is where `mask` is white, or, without a mask, where the image is transparent.
        """
        fields = {"image": _encode(image), "mask": _encode(mask), "prompt": prompt, **options}
        return self._run("/edits", fields)

    def probe(self, image: ImageSource, **options: Unpack[ProbeOptions]) -> Job:
        """Probe an image's embedding.

        `result` has CLIP's probabilities of `labels`; `images` are reconstructions from the first
        principal `components`.
        """
        return self._run("/probe", {"image": _encode(image), **options})

    def embeddings(
        self,
        prompt: str | None = None,
        *,
        image: ImageSource | None = None,
        **options: Unpack[QueueOptions],
    ) -> Job:
        """Compute the CLIP embedding of a prompt or an image, as the job's `result`."""
        return self._run("/embeddings", {"prompt": prompt, "image": _encode(image), **options})


class Client(Operations):
    """A connection to a service.

    Operations wait until their job has succeeded; those of `submit` return at once. Threads may
    share a client. Lost connections and responses 429, 502, 503 and 504 are retried, after the
    time in Retry-After. Each call has an Idempotency-Key, so a retry never starts a second job.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        retry_for_s: float = 120.0,
        progress: bool = False,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Configure the client; the first request connects.

        Args:
            url: the service's URL (default: UNCLIP_URL, or http://localhost:8000).
            api_key: bearer token (default: UNCLIP_API_KEY, or none).
            retry_for_s: how long a request is retried, in seconds.
            progress: show a progress bar on stderr while an operation waits.
            transport: an httpx transport, for proxies and tests.

        Raises:
            ValueError: the URL does not begin with http:// or https://.
        """
        url = url or os.environ.get("UNCLIP_URL") or DEFAULT_URL
        if httpx.URL(url).scheme not in ("http", "https"):
            raise ValueError(f"invalid service URL {url!r}: it must begin with http:// or https://")
        key = api_key or os.environ.get("UNCLIP_API_KEY")
        self.retry_for_s = retry_for_s
        self.progress = progress
        self.submit = Submitter(self)
        self.http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=READ_TIMEOUT_S,
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self.http.close()

    def _run(self, path: str, fields: Mapping[str, Any]) -> Job:
        return self.submit._run(path, fields).wait()

    def get_job(self, job_id: str) -> Job:
        """Return an earlier job.

        Raises:
            ProblemError: 404 if there is no such job, or it has expired.
        """
        return Job(self, self.send("GET", f"/jobs/{job_id}").json())

    def list_jobs(self, **filters: str) -> Iterator[Job]:
        """Yield all jobs, newest first.

        Filters are `status`, `operation`, `created_after` and `created_before`.
        """
        cursor: dict[str, str] = {}
        while True:
            params = {**filters, "limit": PAGE_SIZE, **cursor}
            page = self.send("GET", "/jobs", params=params).json()
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
        """Send a request, with retries, and return the successful response.

        With `stream` the body is left unread, and the caller closes the response.

        Raises:
            ProblemError: the service rejects the request.
            ConnectionFailedError: the service does not answer within `retry_for_s` seconds.
        """
        deadline = time.monotonic() + self.retry_for_s
        pause_s = FIRST_PAUSE_S
        while True:
            request = self.http.build_request(
                method, path, json=json, params=params, headers=headers
            )
            try:
                response = self.http.send(request, stream=stream)
                if response.is_success:
                    return response
                response.read()
            except httpx.TransportError as error:
                reason = error or type(error).__name__
                failure: UnclipError = ConnectionFailedError(
                    f"no response from {self.http.base_url}: {reason}"
                )
                # Jitter: clients that lost the connection together must not return together.
                wait_s = pause_s * random.uniform(1, 1.5)
            else:
                response.close()
                failure = ProblemError(response)
                if response.status_code not in RETRY_STATUSES:
                    raise failure
                wait_s = _retry_after_s(response) or pause_s
            if time.monotonic() + wait_s > deadline:
                raise failure
            log.warning("%s; retrying in %.1f s", failure, wait_s)
            time.sleep(wait_s)
            pause_s = min(pause_s * 2, MAX_PAUSE_S)


class Submitter(Operations):
    """Operations that return their job without waiting for it."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def _run(self, path: str, fields: Mapping[str, Any]) -> Job:
        body = {name: value for name, value in fields.items() if value is not None}
        headers = {"Idempotency-Key": body.pop("idempotency_key", None) or uuid.uuid4().hex}
        response = self.client.send("POST", path, json=body, headers=headers)
        return Job(self.client, response.json())


def _encode(image: ImageSource | None) -> Any:
    """Return an image as a request has it: base64, or a reference to a job's image."""
    if image is None:
        return None
    if isinstance(image, Job):
        if len(image.images) != 1:
            raise ValueError(
                f"{image} has {len(image.images)} images: pass one of them, such as job.images[0]"
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


def _encode_part(part: dict[str, Any]) -> dict[str, Any]:
    return part | {"image": _encode(part["image"])} if "image" in part else part


def _retry_after_s(response: httpx.Response) -> float | None:
    """Return the seconds in Retry-After; None if it is missing or a date, which proxies send."""
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None
