"""The worker's side of a job's record in Redis: what it reads, and every change it makes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, cast

import redis

from contracts import keys
from contracts.jobs import ENDED, JobError, Picture, Progress, Record, now, read_record, written

EVENTS_KEPT = 1000


class JobRecord:
    """One job's record. Every change is one transaction, and an ended job is never changed again."""

    def __init__(self, connection: redis.Redis, job_id: str, ttl: int) -> None:
        # Any: what redis-py says of its answers' types differs from release to release.
        self.redis: Any = connection
        self.job_id, self.ttl = job_id, ttl

    def read(self) -> Record | None:
        """The record; None where it is gone."""
        fields = cast("dict[bytes, bytes]", self.redis.hgetall(keys.job(self.job_id)))
        return read_record(fields) if fields else None

    def start(self, parameters: dict[str, Any]) -> None:
        """It runs, with these resolved parameters. A job that runs again after a crash keeps its first start."""
        key = keys.job(self.job_id)
        with self.redis.pipeline() as pipe:
            pipe.hset(key, mapping=written(status="running", parameters=parameters))
            pipe.hsetnx(key, "started_at", written(started_at=now())["started_at"])
            pipe.execute()

    def progress(self, progress: Progress) -> None:
        """How far it is, in the record and on the event stream."""
        with self.redis.pipeline() as pipe:
            pipe.hset(keys.job(self.job_id), mapping=written(progress=progress.model_dump()))
            self._tell(pipe, "progress", progress.model_dump())
            pipe.execute()

    def succeed(self, pngs: Sequence[bytes], pictures: Sequence[Picture], warnings: Sequence[str], progress: Progress) -> None:
        """Its pictures are there."""
        images = {keys.image(self.job_id, index): content for index, content in enumerate(pngs)}
        fields = written(images=[p.model_dump() for p in pictures], warnings=list(warnings), progress=progress.model_dump())
        self._end("succeeded", fields, images)

    def fail(self, kind: Literal["invalid", "internal"], detail: str) -> None:
        """It ended without pictures, and this is why."""
        title = "The request cannot be done" if kind == "invalid" else "The drawing failed"
        self._end("failed", written(error=JobError(kind=kind, title=title, detail=detail).model_dump()), {})

    def requeue(self) -> None:
        """Its worker died; it waits for another."""
        with self.redis.pipeline() as pipe:
            pipe.hset(keys.job(self.job_id), mapping=written(status="queued"))
            pipe.hdel(keys.job(self.job_id), "progress")
            pipe.execute()

    def _end(self, status: Literal["succeeded", "failed"], fields: dict[str, str], images: dict[str, bytes]) -> None:
        key = keys.job(self.job_id)
        with self.redis.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(key)
                    before = cast("bytes | None", pipe.hget(key, "status"))
                    if before is None or before.decode() in ENDED:
                        return  # another worker, to which the job was given when this one seemed dead, was quicker
                    pipe.multi()
                    for image_key, content in images.items():
                        pipe.set(image_key, content, ex=self.ttl)
                    pipe.hset(key, mapping=fields | written(status=status, finished_at=now()))
                    pipe.expire(key, self.ttl)
                    pipe.hincrby(keys.OUTCOMES, status)
                    self._tell(pipe, "ended", {"status": status})
                    pipe.execute()
                    return
                except redis.WatchError:
                    continue

    def _tell(self, pipe: Any, event: str, data: dict[str, Any]) -> None:
        stream = keys.events(self.job_id)
        pipe.xadd(stream, {"event": event, "data": json.dumps(data)}, maxlen=EVENTS_KEPT, approximate=True)
        pipe.expire(stream, self.ttl)
