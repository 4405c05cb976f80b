"""The worker's changes to a job's record, on a real Redis."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from contracts import redis_keys
from contracts.jobs import ImageInfo, Progress, now, written
from contracts.transitions import EVENTS_KEPT
from worker.jobs.record import JobRecord

TTL = 100
HALF = Progress(stage="decoder", step=3, steps=6, fraction=0.5)
WHOLE = Progress(stage="decoder", step=6, steps=6, fraction=1.0)
IMAGES = [ImageInfo(seed=7, width=64, height=64), ImageInfo(seed=8, width=64, height=64)]

CHANGES: dict[str, Callable[[JobRecord], bool]] = {
    "start": lambda record: record.start({"size": 256}),
    "progress": lambda record: record.progress(HALF),
    "requeue": lambda record: record.requeue(),
    "succeed": lambda record: record.succeed([b"other", b"bytes"], IMAGES, [], WHOLE),
    "fail": lambda record: record.fail("internal", "too late"),
}


@pytest.fixture
def client(redis_server: Any) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(redis_server.url)
    yield client
    client.close()


def accepted(client: redis.Redis, job_id: str = "j") -> JobRecord:
    """A job as the service leaves it."""
    client.hset(
        redis_keys.job(job_id),
        mapping=written(
            operation="generate", status="queued", request={"prompt": "a"}, created_at=now()
        ),
    )
    return JobRecord(client, job_id, TTL)


def everything(client: redis.Redis) -> dict[bytes, Any]:
    """All that Redis holds, by key."""
    read = {b"hash": client.hgetall, b"string": client.get, b"stream": client.xrange}
    return {key: read[client.type(key)](key) for key in client.keys("*")}


def test_a_job_runs_and_succeeds(client: redis.Redis) -> None:
    """Status, times, progress, images and events, step by step."""
    record = accepted(client)
    assert record.start({"size": 64})
    running = record.read()
    assert running is not None
    assert running.status == "running"
    assert running.parameters == {"size": 64}
    assert running.started_at is not None
    assert running.finished_at is None
    assert record.progress(HALF)
    assert record.succeed([b"one", b"two"], IMAGES, ["cut"], WHOLE)
    ended = record.read()
    assert ended is not None
    assert ended.status == "succeeded"
    assert ended.progress == WHOLE
    assert ended.warnings == ["cut"]
    assert ended.images == IMAGES
    assert [client.get(redis_keys.image("j", index)) for index in (0, 1)] == [b"one", b"two"]
    assert ended.finished_at is not None
    assert ended.created_at <= running.started_at <= ended.finished_at
    events = [
        (fields[b"event"], json.loads(fields[b"data"]))
        for _, fields in client.xrange(redis_keys.events("j"))
    ]
    assert events == [(b"progress", HALF.model_dump()), (b"ended", {"status": "succeeded"})]
    assert client.hgetall(redis_keys.OUTCOMES) == {b"generate:succeeded": b"1"}


@pytest.mark.parametrize(
    ("kind", "title"),
    [
        ("invalid", "The request cannot be done"),
        ("content", "The content check stopped it"),
        ("internal", "The drawing failed"),
    ],
)
def test_a_failure_says_whose_it_is_and_why(client: redis.Redis, kind: Any, title: str) -> None:
    """`invalid` and `content` are the client's to mend, `internal` ours."""
    record = accepted(client)
    assert record.fail(kind, "because")
    failed = record.read()
    assert failed is not None
    assert failed.status == "failed"
    assert failed.finished_at is not None
    assert failed.error is not None
    assert failed.error.model_dump() == {"kind": kind, "title": title, "detail": "because"}
    reason = {"invalid": b"invalid", "content": b"content", "internal": b"error"}[kind]
    assert client.hgetall(redis_keys.OUTCOMES) == {b"generate:failed:" + reason: b"1"}


def test_what_an_ended_job_leaves_behind_expires(client: redis.Redis) -> None:
    """Record, images and events go after the result's time to live; a waiting job does not expire."""
    record = accepted(client)
    record.start({})
    assert client.ttl(redis_keys.job("j")) == -1
    record.progress(HALF)
    record.succeed([b"one", b"two"], IMAGES, [], WHOLE)
    for key in (
        redis_keys.job("j"),
        redis_keys.image("j", 0),
        redis_keys.image("j", 1),
        redis_keys.events("j"),
    ):
        assert TTL - 5 <= client.ttl(key) <= TTL, key


@pytest.mark.parametrize("end", ["succeed", "fail"])
@pytest.mark.parametrize("late", list(CHANGES))
def test_an_ended_job_is_never_changed_again(client: redis.Redis, end: str, late: str) -> None:
    """A worker that was thought dead comes back late: nothing in Redis moves, and it is told so."""
    record = accepted(client)
    record.start({"size": 64})
    if end == "succeed":
        record.succeed([b"one", b"two"], IMAGES, ["cut"], WHOLE)
    else:
        record.fail("invalid", "first")
    before = everything(client)
    assert CHANGES[late](record) is False
    assert everything(client) == before


@pytest.mark.parametrize("late", list(CHANGES))
def test_a_job_that_is_gone_stays_gone(client: redis.Redis, late: str) -> None:
    """No half of a record comes back to life without a time to live."""
    assert CHANGES[late](JobRecord(client, "gone", TTL)) is False
    assert everything(client) == {}
    assert JobRecord(client, "gone", TTL).read() is None


def test_of_many_that_end_a_job_at_once_one_does(client: redis.Redis) -> None:
    """Two workers with the same job: one outcome, counted once, with the images of the one that won."""
    record = accepted(client)
    told = []
    barrier = threading.Barrier(8)

    def end(index: int) -> None:
        barrier.wait()
        if record.succeed([b"%d" % index], IMAGES[:1], [str(index)], WHOLE):
            told.append(index)

    threads = [threading.Thread(target=end, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended = record.read()
    assert len(told) == 1
    assert ended is not None
    assert ended.warnings == [str(told[0])]
    assert client.get(redis_keys.image("j", 0)) == b"%d" % told[0]
    assert client.hgetall(redis_keys.OUTCOMES) == {b"generate:succeeded": b"1"}
    assert client.xlen(redis_keys.events("j")) == 1


def test_a_job_that_is_tried_again_keeps_its_first_start(client: redis.Redis) -> None:
    """Requeued it is as before it ran, but for the time it first did."""
    record = accepted(client)
    record.start({"size": 64})
    first = record.read()
    record.progress(HALF)
    assert record.requeue()
    waiting = record.read()
    assert waiting is not None
    assert waiting.status == "queued"
    assert waiting.progress is None
    record.start({"size": 64})
    again = record.read()
    assert first is not None
    assert again is not None
    assert again.status == "running"
    assert again.started_at == first.started_at


def test_the_event_stream_does_not_grow_without_bound(client: redis.Redis) -> None:
    """A job of many steps keeps its latest events, and its end among them."""
    record = accepted(client)
    record.start({})
    for step in range(EVENTS_KEPT + 300):
        record.progress(Progress(stage="decoder", step=step, steps=2000, fraction=0))
    record.fail("internal", "the end")
    assert (
        client.xlen(redis_keys.events("j")) <= EVENTS_KEPT + 100
    )  # Redis trims by whole nodes of 100
    ((_, last),) = client.xrevrange(redis_keys.events("j"), count=1)
    assert last[b"event"] == b"ended"
