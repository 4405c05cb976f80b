"""Images of jobs: read them from Redis or the object store, and convert them."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from contracts import redis_keys
from contracts.fields import Animation
from contracts.jobs import ImageInfo, JobRecord
from service.errors import ImageNotFound, JobNotFound
from service.jobs.estimate import JobSnapshot, parse_snapshot, query_snapshot
from service.jobs.repository import JobRepository
from service.jobs.result_store import ResultStore, ResultStream


def image_info(record: JobRecord, index: int) -> ImageInfo:
    """Return the seed and size of an image. Raises ImageNotFound."""
    images = record.outcome.images
    if index >= len(images):
        raise ImageNotFound(
            f"Job {record.id} is {record.status} and has {len(images)} images; "
            f"there is none at {index}."
        )
    return images[index]


def animation_format(record: JobRecord) -> Animation:
    """Return the format of a job's animation. Raises ImageNotFound."""
    if record.outcome.animation is None:
        raise ImageNotFound(
            f"Job {record.id} is {record.status} and has no animation. "
            "Request one with animation: webp or apng."
        )
    return record.outcome.animation


class JobImages:
    """Read the images of jobs."""

    def __init__(self, jobs: JobRepository, store: ResultStore | None) -> None:
        """Read from Redis, and from `store` if there is one."""
        self.jobs = jobs
        self.store = store

    async def read(self, record: JobRecord, index: int) -> bytes:
        """Return the PNG of an image. Raises ImageNotFound."""
        image_info(record, index)
        content = await self._read(
            redis_keys.image(record.id, index), redis_keys.stored_image(record.id, index)
        )
        if content is None:
            raise _expired()
        return content

    async def get_with_image(self, job_id: str) -> tuple[JobSnapshot, bytes | None]:
        """Return a job with the PNG of its first image, in one round trip if Redis has it.

        The PNG is None if the job has no image. Raises JobNotFound.
        """
        async with self.jobs.redis.pipeline() as pipe:
            query_snapshot(pipe, job_id)
            pipe.get(redis_keys.image(job_id, 0))
            fields, reply, content = await pipe.execute()
        snapshot = parse_snapshot(job_id, fields, reply)
        if snapshot is None:
            raise self.jobs.not_found(job_id)
        if content is None and snapshot.record.outcome.images:
            content = await self.read(snapshot.record, 0)
        return snapshot, content

    async def find(self, job_id: str, index: int, owner_id: str | None) -> bytes | None:
        """Return the PNG of an image; None if there is none that this owner may see.

        `owner_id`: id of the API key that the job must belong to; None for any.
        """
        try:
            snapshot = await self.jobs.get_owned(job_id, owner_id)
            return await self.read(snapshot.record, index)
        except (JobNotFound, ImageNotFound):
            return None

    async def open_image(self, record: JobRecord, index: int) -> bytes | ResultStream:
        """Return the PNG of an image, or a stream of it. Raises ImageNotFound."""
        image_info(record, index)
        return await self._open(
            redis_keys.image(record.id, index), redis_keys.stored_image(record.id, index)
        )

    async def open_animation(self, record: JobRecord) -> bytes | ResultStream:
        """Return the animation of a job, or a stream of it. Raises ImageNotFound."""
        kind = animation_format(record)
        return await self._open(
            redis_keys.animation(record.id), redis_keys.stored_animation(record.id, kind)
        )

    async def _read(self, key: str, name: str) -> bytes | None:
        # Redis first, also with a store: it has the results from before the store was set up.
        content = await self.jobs.redis.get(key)
        if content is not None:
            return bytes(content)
        return None if self.store is None else await self.store.read(name)

    async def _open(self, key: str, name: str) -> bytes | ResultStream:
        content = await self.jobs.redis.get(key)
        if content is not None:
            return bytes(content)
        file = None if self.store is None else await self.store.open(name)
        if file is None:
            raise _expired()
        return file


def convert_image(content: bytes, side: int | None, kind: str = "png", quality: int = 100) -> bytes:
    """Convert an image to another size or format; return the same bytes if nothing changes.

    side: width and height in pixels; None for those of the image.
    kind: png, webp or jpeg.
    quality: 0 to 100, for webp and jpeg.

    A PNG keeps its text chunks, such as the provenance; a reduced one gets `reduced_to` as well.
    """
    image = Image.open(io.BytesIO(content))
    side = side or image.width
    if image.format == "PNG" == kind.upper() and image.width == side:
        return content
    text = PngInfo()
    for key, value in getattr(image, "text", {}).items():
        text.add_text(key, value)
    if side < image.width:
        text.add_text("reduced_to", str(side))
    converted = image.convert("RGB")
    if converted.width != side:
        converted = converted.resize((side, side), Image.Resampling.LANCZOS)
    options: dict[str, Any] = {"quality": quality}
    if kind == "png":
        options = {"pnginfo": text, "compress_level": 1}
    buffer = io.BytesIO()
    converted.save(buffer, kind.upper(), **options)
    return buffer.getvalue()


def _expired() -> ImageNotFound:
    return ImageNotFound("The job exists but its result has expired. Submit the request again.")
