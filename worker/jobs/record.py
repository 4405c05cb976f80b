"""The worker's side of a job's record in Redis: what it reads, and every change it makes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import redis

from contracts import redis_keys
from contracts.jobs import (
    ENDED,
    FailureKind,
    ImageInfo,
    JobError,
    Preview,
    Progress,
    Record,
    now,
    read_record,
    written,
)
from contracts.transitions import Reason, finish_job, publish_event
from contracts.webhooks import schedule_webhook
from infra.object_store import ObjectStore

_TITLES: dict[FailureKind, str] = {
    "invalid": "The request cannot be done",
    "content": "The content check stopped it",
    "internal": "The drawing failed",
}
_REASONS: dict[FailureKind, Reason] = {
    "invalid": "invalid",
    "content": "content",
    "internal": "error",
}


class JobRecord:
    """One job's record. Every change is one transaction, and a job that has ended (or is gone) is never changed again: another
    worker, to which it was given when this one seemed dead, may have been quicker. Each change tells whether it was made."""

    def __init__(
        self, connection: redis.Redis, job_id: str, ttl: int, store: ObjectStore | None = None
    ) -> None:
        """`store`: where images go; else to Redis."""
        # Any: what redis-py says of its answers' types differs from release to release.
        self.redis: Any = connection
        self.job_id = job_id
        self.ttl = ttl
        self.store = store
        self.key = redis_keys.job(job_id)

    def read(self) -> Record | None:
        """The record; None where it is gone."""
        fields = self.redis.hgetall(self.key)
        return read_record(fields) if fields else None

    def start(self, parameters: dict[str, Any]) -> bool:
        """It runs, with these resolved parameters. A job that runs again after a crash keeps its first start."""
        found = self.read()

        def change(pipe: Any) -> None:
            pipe.hset(self.key, mapping=written(status="running", parameters=parameters))
            pipe.hsetnx(self.key, "started_at", written(started_at=now())["started_at"])
            if found and found.started_at is None:
                schedule_webhook(pipe, self.job_id, found.webhook, "started", time.time())

        return self._change(change)

    def progress(self, progress: Progress) -> bool:
        """How far it is, in the record and on the event stream."""

        def change(pipe: Any) -> None:
            pipe.hset(self.key, mapping=written(progress=progress.model_dump()))
            publish_event(pipe, self.job_id, "progress", progress.model_dump(), self.ttl)

        return self._change(change)

    def watched(self) -> bool:
        """True where somebody looks at the previews."""
        return bool(self.redis.exists(redis_keys.preview_subscribed(self.job_id)))

    def previews(self, previews: Sequence[Preview], progress: Progress) -> bool:
        """The images so far, on the event stream only, each with how far the job is."""

        def change(pipe: Any) -> None:
            for preview in previews:
                publish_event(
                    pipe,
                    self.job_id,
                    "preview",
                    preview.model_dump() | progress.model_dump(),
                    self.ttl,
                )

        return self._change(change)

    def inputs(self, names: Sequence[str]) -> dict[str, bytes]:
        """The images that came with the request, as PNG bytes by name. ValueError where one is gone."""
        contents = (
            self.redis.mget([redis_keys.input_image(self.job_id, name) for name in names])
            if names
            else []
        )
        gone = [name for name, content in zip(names, contents, strict=True) if content is None]
        if gone:
            raise ValueError(
                f"the image {gone[0]} of this job is no longer there: send the request again"
            )
        return dict(zip(names, contents, strict=True))

    def succeed(
        self,
        pngs: Sequence[bytes],
        images: Sequence[ImageInfo],
        warnings: Sequence[str],
        progress: Progress,
        result: dict[str, Any] | None = None,
        animation: tuple[str, bytes] | None = None,
    ) -> bool:
        """It is done: images, what was found beside them, and the frames as one animation (format, content). ObjectStoreError where
        they could not be stored; the job has not ended then."""
        contents = {
            redis_keys.image(self.job_id, index): content for index, content in enumerate(pngs)
        }
        fields = written(
            images=[p.model_dump() for p in images],
            warnings=list(warnings),
            progress=progress.model_dump(),
            result=result,
        )
        if animation is not None:
            fields |= written(animation=animation[0])
            contents[redis_keys.animation(self.job_id)] = animation[1]
        if self.store is not None:
            found = self.read()
            if found is None or found.status in ENDED:
                return False  # what is there is another's, and may be read just now
            stored = {
                redis_keys.stored_image(self.job_id, index): content
                for index, content in enumerate(pngs)
            }
            stored |= (
                {redis_keys.stored_animation(self.job_id, animation[0]): animation[1]}
                if animation
                else {}
            )
            self.store.put(stored)
            contents = {}
        return self._end("succeeded", fields, contents)

    def fail(self, kind: FailureKind, detail: str, reason: Reason | None = None) -> bool:
        """It ended without images, and this is why. `reason`: what it is counted as."""
        error = JobError(kind=kind, title=_TITLES[kind], detail=detail)
        return self._end("failed", written(error=error.model_dump()), {}, reason or _REASONS[kind])

    def requeue(self) -> bool:
        """Its worker died; it waits for another."""

        def change(pipe: Any) -> None:
            pipe.hset(self.key, mapping=written(status="queued"))
            pipe.hdel(self.key, "progress")

        return self._change(change)

    def _end(
        self,
        status: Literal["succeeded", "failed"],
        fields: dict[str, str],
        images: dict[str, bytes],
        reason: Reason | None = None,
    ) -> bool:
        found = self.read()
        if found is None:
            return False

        def change(pipe: Any) -> None:
            for image_key, content in images.items():
                pipe.set(image_key, content, ex=self.ttl)
            finish_job(pipe, self.job_id, found, status, self.ttl, fields, reason)

        return self._change(change)

    def _change(self, change: Callable[[Any], None]) -> bool:
        """Queue a change on a pipeline and make it, unless the job has ended or is gone."""
        with self.redis.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(self.key)
                    status = pipe.hget(self.key, "status")
                    if status is None or status.decode() in ENDED:
                        return False
                    pipe.multi()
                    change(pipe)
                    pipe.execute()
                    return True
                except redis.WatchError:  # it changed in between: look again
                    pipe.reset()
