"""The worker's view of one job in Redis: what it reads, and every transition it makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal
from uuid import uuid4

import redis
from rq.timeouts import BaseTimeoutException

from contracts import redis_keys
from contracts.fields import Animation, QueueFields
from contracts.jobs import (
    ENDED,
    FailureKind,
    ImageInfo,
    JobError,
    JobOutcome,
    JobRecord,
    JobSpec,
    Preview,
    Progress,
    encode_fields,
    now,
)
from contracts.transitions import Reason, finish_job, publish_event
from contracts.webhooks import schedule_webhook
from infra.object_store import ObjectStore
from infra.redis import server_time
from infra.redis_errors import is_transient, single_attempt
from worker.jobs.errors import InvalidJobError

# Weight of the latest job in the moving averages of durations.
DURATION_MOMENTUM = 0.2
# Seconds after which uploaded contents of a transition that never came are deleted.
UPLOAD_TTL_S = 600
# KEYS: the job's record, then keys of uploaded contents. ARGV: the suffix of the keys that the
# contents were uploaded to, their lifetime, then for each command its length and its words.
# A script takes one round trip instead of three (WATCH, HGET, EXEC). The suffix also names the
# transition: if its reply was lost, it arrives again and must change nothing.
_TRANSITION = f"""
if redis.call('HGET', KEYS[1], 'transition') == ARGV[1] then
  for index = 2, #KEYS do redis.call('DEL', KEYS[index] .. ARGV[1]) end
  return 1
end
local status = redis.call('HGET', KEYS[1], 'status')
if not status or {" or ".join(f"status == '{status}'" for status in ENDED)} then
  for index = 2, #KEYS do redis.call('DEL', KEYS[index] .. ARGV[1]) end
  return 0
end
for index = 2, #KEYS do
  redis.call('RENAME', KEYS[index] .. ARGV[1], KEYS[index])
  redis.call('EXPIRE', KEYS[index], ARGV[2])
end
local at = 3
while at <= #ARGV do
  local length = tonumber(ARGV[at])
  redis.call(unpack(ARGV, at + 1, at + length))
  at = at + length + 1
end
redis.call('HSET', KEYS[1], 'transition', ARGV[1])
return 1
"""
# KEYS: the hash of means. ARGV: the new value, the weight of it, then the fields.
_UPDATE_MEANS = """
for index = 3, #ARGV do
  local mean = tonumber(redis.call('HGET', KEYS[1], ARGV[index]) or ARGV[1])
  mean = mean + ARGV[2] * (ARGV[1] - mean)
  redis.call('HSET', KEYS[1], ARGV[index], string.format('%.4f', mean))
end
"""
_TITLES: dict[FailureKind, str] = {
    "invalid": "Invalid request",
    "content": "Blocked by content filter",
    "internal": "Generation failed",
}
_REASONS: dict[FailureKind, Reason] = {
    "invalid": "invalid",
    "content": "content",
    "internal": "error",
}


class JobRepository:
    """Read and change one job.

    Every change is one transaction that refuses an ended or deleted job, because another worker may
    have ended it while this one seemed dead. Each change returns whether it was made.
    """

    def __init__(
        self,
        connection: redis.Redis,
        job_id: str,
        ttl_s: int,
        store: ObjectStore | None = None,
    ) -> None:
        """`ttl_s`: how long an ended job stays. `store`: where images go; None for Redis."""
        # Any: the types of redis-py's replies differ between releases.
        self.redis: Any = connection
        self.job_id = job_id
        self.ttl_s = ttl_s
        self.store = store
        self.key = redis_keys.job(job_id)

    @cached_property
    def record(self) -> JobRecord | None:
        """The job's record as first read; None if it is deleted."""
        return self.read()

    def read(self) -> JobRecord | None:
        """Read the job's present record; None if it is deleted.

        Raises InvalidJobError if this version cannot read it.
        """
        fields = self.redis.hgetall(self.key)
        if not fields:
            return None
        try:
            return JobRecord.from_hash(self.job_id, fields)
        except (KeyError, ValueError) as error:
            raise InvalidJobError(f"This worker cannot read the job's record: {error}") from error

    def read_inputs(self, names: Sequence[str]) -> dict[str, bytes]:
        """Read the request's input images as PNG bytes, by name.

        Raises ValueError if one has expired.
        """
        if not names:
            return {}
        contents = self.redis.mget([redis_keys.input_image(self.job_id, name) for name in names])
        missing = [name for name, content in zip(names, contents, strict=True) if content is None]
        if missing:
            raise ValueError(
                f"input image {missing[0]} of this job is no longer there; send the request again"
            )
        return dict(zip(names, contents, strict=True))

    def is_preview_subscribed(self) -> bool:
        """Return whether a client watches the job's previews; False if Redis is unavailable."""
        try:
            with single_attempt():
                return bool(self.redis.exists(redis_keys.preview_subscribed(self.job_id)))
        except redis.RedisError as error:
            if not is_transient(error):
                raise
            return False

    def start(self, parameters: dict[str, Any]) -> bool:
        """Set the job running with resolved parameters; a retry keeps its first start time."""
        record = self.record
        started_at = server_time(self.redis)

        def change(pipe: Any) -> None:
            fields = encode_fields(status="running", parameters=parameters)
            pipe.hset(self.key, mapping=fields)
            pipe.hsetnx(self.key, "started_at", started_at.isoformat())
            if record is not None and record.started_at is None:
                spec = record.spec
                due_at = started_at.timestamp()
                schedule_webhook(pipe, self.job_id, spec.webhook, spec.owner, "started", due_at)

        return self._change(change)

    def update_progress(self, progress: Progress) -> bool:
        """Write progress into the record and onto the event stream.

        Drop it if Redis does not accept it now.
        """

        def change(pipe: Any) -> None:
            pipe.hset(self.key, mapping=encode_fields(progress=progress))
            publish_event(pipe, self.job_id, "progress", progress.model_dump(), self.ttl_s)

        return self._change_or_drop(change)

    def publish_previews(self, previews: Sequence[Preview], progress: Progress) -> bool:
        """Publish previews on the event stream, each with the job's progress.

        Drop them if Redis does not accept them now.
        """

        def change(pipe: Any) -> None:
            for preview in previews:
                data = preview.model_dump() | progress.model_dump()
                publish_event(pipe, self.job_id, "preview", data, self.ttl_s)

        return self._change_or_drop(change)

    def succeed(
        self,
        pngs: Sequence[bytes],
        images: Sequence[ImageInfo],
        warnings: Sequence[str],
        progress: Progress,
        result: dict[str, Any] | None = None,
        animation: tuple[Animation, bytes] | None = None,
    ) -> bool:
        """End the job with its images, result values and an animation (format, content).

        Raises ObjectStoreError if the images cannot be stored; the job is then still running.
        """
        outcome = JobOutcome(images=list(images), warnings=list(warnings), result=result)
        contents = {redis_keys.image(self.job_id, index): png for index, png in enumerate(pngs)}
        if animation is not None:
            outcome.animation = animation[0]
            contents[redis_keys.animation(self.job_id)] = animation[1]
        stored: dict[str, bytes] = {}
        if self.store is not None:
            if not self._is_running():
                # The stored images are another worker's, and a client may be reading them.
                return False
            contents = {}
            stored = self._stored_contents(pngs, animation)
            self.store.put(stored)
        fields = encode_fields(outcome=outcome, progress=progress)
        has_ended = self._end("succeeded", fields, contents)
        if self.store is not None and not has_ended and self._status() != "succeeded":
            # The job was cancelled during the upload. A success would be another worker's, with
            # the same images.
            self.store.delete(stored)
        return has_ended

    def fail(
        self,
        kind: FailureKind,
        detail: str,
        reason: Reason | None = None,
        pipe: Any | None = None,
    ) -> bool:
        """End the job without images; `reason` is the outcome that the metrics count.

        `pipe`: a transaction that the end is queued on instead.
        """
        error = JobError(kind=kind, title=_TITLES[kind], detail=detail)
        fields = encode_fields(outcome=JobOutcome(error=error))
        return self._end("failed", fields, {}, reason or _REASONS[kind], pipe)

    def requeue(self, pipe: Any | None = None) -> bool:
        """Set the job back to queued, after its worker failed; `pipe` as in `fail`."""

        def change(pipe: Any) -> None:
            pipe.hset(self.key, mapping=encode_fields(status="queued"))
            pipe.hdel(self.key, "progress")

        return self._change(change, pipe=pipe)

    def update_mean_durations(self, field: str, seconds: float) -> None:
        """Add a job's duration to the moving averages of its kind (`field`) and of all jobs.

        The service estimates from them when waiting jobs end.
        """
        self.redis.eval(
            _UPDATE_MEANS,
            1,
            redis_keys.MEAN_DURATIONS,
            seconds,
            DURATION_MOMENTUM,
            field,
            redis_keys.mean_duration("any", None),
        )

    def _stored_contents(
        self, pngs: Sequence[bytes], animation: tuple[Animation, bytes] | None
    ) -> dict[str, bytes]:
        """Return the job's files in the object store, by path."""
        contents = {
            redis_keys.stored_image(self.job_id, index): png for index, png in enumerate(pngs)
        }
        if animation is not None:
            contents[redis_keys.stored_animation(self.job_id, animation[0])] = animation[1]
        return contents

    def _is_running(self) -> bool:
        return self._status() not in {None, *ENDED}

    def _status(self) -> str | None:
        """Return the job's present status; None if it is deleted."""
        status = self.redis.hget(self.key, "status")
        return None if status is None else status.decode()

    def _end(
        self,
        status: Literal["succeeded", "failed"],
        fields: dict[str, str],
        contents: dict[str, bytes],
        reason: Reason | None = None,
        outer_pipe: Any | None = None,
    ) -> bool:
        try:
            record = self.record
        except InvalidJobError:
            record = self._unreadable_record()
        if record is None:
            return False

        finished_at = server_time(self.redis)

        def change(pipe: Any) -> None:
            finish_job(pipe, record, status, self.ttl_s, fields, reason, finished_at=finished_at)

        try:
            return self._change(change, contents, outer_pipe)
        except BaseTimeoutException:
            # The time limit is for the generation. RQ raises it once, in the wait for Redis.
            return self._change(change, contents, outer_pipe)

    def _unreadable_record(self) -> JobRecord:
        """Return a record with the operation alone, so that the job can end all the same."""
        operation = self.redis.hget(self.key, "operation") or b"unknown"
        spec = JobSpec(operation=operation.decode(), request=QueueFields(), created_at=now())
        return JobRecord(self.job_id, spec)

    def _change_or_drop(self, change: Callable[[Any], None]) -> bool:
        """Do what `_change` does, or nothing if Redis does not accept it now."""
        try:
            with single_attempt():
                return self._change(change)
        except redis.RedisError as error:
            if not is_transient(error):
                raise
            return True

    def _change(
        self,
        change: Callable[[Any], None],
        uploads: Mapping[str, bytes] | None = None,
        pipe: Any | None = None,
    ) -> bool:
        """Run commands in one transaction unless the job has ended; return whether they ran.

        `change` queues the commands on a pipeline. `uploads`: contents by key, written with them.
        `pipe`: a transaction that all is queued on instead.
        """
        with self.redis.pipeline(transaction=False) as own_pipe:
            change(own_pipe)
            arguments: list[Any] = []
            for command, _ in own_pipe.command_stack:
                arguments += [len(command), *command]
            own_pipe.reset()
            target = own_pipe if pipe is None else pipe
            # Lua would copy large contents, so they go to temporary keys that the script renames.
            uploads = uploads or {}
            suffix = f":{uuid4().hex}"
            for key, content in uploads.items():
                target.set(key + suffix, content, ex=UPLOAD_TTL_S)
            keys = [self.key, *uploads]
            target.eval(_TRANSITION, len(keys), *keys, suffix, self.ttl_s, *arguments)
            return bool(own_pipe.execute()[-1]) if pipe is None else True
