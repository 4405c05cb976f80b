"""The worker's transitions of a job, on a real Redis."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis
from support.jobs import TTL_S, store_job

from contracts import redis_keys
from contracts.jobs import ImageInfo, Progress
from contracts.transitions import MAX_EVENTS
from devtools.redis_server import RedisServer
from infra.object_store import ObjectStore
from worker.jobs.record import JobRepository

HALF = Progress(stage="decoder", step=3, steps=6, fraction=0.5)
WHOLE = Progress(stage="decoder", step=6, steps=6, fraction=1.0)
IMAGES = [ImageInfo(seed=7, width=64, height=64), ImageInfo(seed=8, width=64, height=64)]
PNGS = [b"one", b"two"]

TRANSITIONS: dict[str, Callable[[JobRepository], bool]] = {
    "start": lambda jobs: jobs.start({"size": 256}),
    "progress": lambda jobs: jobs.update_progress(HALF),
    "requeue": lambda jobs: jobs.requeue(),
    "succeed": lambda jobs: jobs.succeed([b"other", b"bytes"], IMAGES, [], WHOLE),
    "fail": lambda jobs: jobs.fail("internal", "too late"),
}


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


@pytest.fixture
def jobs(client: redis.Redis) -> JobRepository:
    """A job as the service leaves it."""
    return store_job(client, {"prompt": "a"})


def dump(client: redis.Redis) -> dict[bytes, Any]:
    """Everything in Redis, by key."""
    read = {b"hash": client.hgetall, b"string": client.get, b"stream": client.xrange}
    return {key: read[client.type(key)](key) for key in client.keys("*")}


def test_a_job_runs_and_succeeds(client: redis.Redis, jobs: JobRepository) -> None:
    """Status, times, progress, images and events, step by step."""
    assert jobs.start({"size": 64})
    running = jobs.read()
    assert running is not None
    assert running.status == "running"
    assert running.parameters == {"size": 64}
    assert running.started_at is not None
    assert running.finished_at is None
    assert jobs.update_progress(HALF)
    assert jobs.succeed(PNGS, IMAGES, ["truncated"], WHOLE)
    ended = jobs.read()
    assert ended is not None
    assert ended.status == "succeeded"
    assert ended.progress == WHOLE
    assert ended.outcome.warnings == ["truncated"]
    assert ended.outcome.images == IMAGES
    assert [client.get(redis_keys.image("j", index)) for index in (0, 1)] == PNGS
    assert ended.finished_at is not None
    assert ended.spec.created_at <= running.started_at <= ended.finished_at
    stream = client.xrange(redis_keys.events("j"))
    events = [(fields[b"event"], json.loads(fields[b"data"])) for _, fields in stream]
    assert events == [(b"progress", HALF.model_dump()), (b"ended", {"status": "succeeded"})]
    assert client.hgetall(redis_keys.OUTCOMES) == {b"generate:succeeded": b"1"}


@pytest.mark.parametrize(
    ("kind", "title", "reason"),
    [
        ("invalid", "Invalid request", b"invalid"),
        ("content", "Blocked by content filter", b"content"),
        ("internal", "Generation failed", b"error"),
    ],
)
def test_a_failure_has_kind_title_and_detail(
    client: redis.Redis, jobs: JobRepository, kind: Any, title: str, reason: bytes
) -> None:
    """Clients can change their request if it is `invalid` or `content`."""
    assert jobs.fail(kind, "because")
    failed = jobs.read()
    assert failed is not None
    assert failed.status == "failed"
    assert failed.finished_at is not None
    error = failed.outcome.error
    assert error is not None
    assert error.model_dump() == {"kind": kind, "title": title, "detail": "because"}
    assert client.hgetall(redis_keys.OUTCOMES) == {b"generate:failed:" + reason: b"1"}


def test_what_an_ended_job_leaves_expires(client: redis.Redis, jobs: JobRepository) -> None:
    """Record, images and events have the result's time to live; a running job does not expire."""
    jobs.start({})
    assert client.ttl(redis_keys.job("j")) == -1
    jobs.update_progress(HALF)
    jobs.succeed(PNGS, IMAGES, [], WHOLE)
    keys = [
        redis_keys.job("j"),
        redis_keys.image("j", 0),
        redis_keys.image("j", 1),
        redis_keys.events("j"),
    ]
    lifetimes = {key: client.ttl(key) for key in keys}
    assert all(TTL_S - 5 <= seconds <= TTL_S for seconds in lifetimes.values()), lifetimes


@pytest.mark.parametrize("end", ["succeed", "fail"])
@pytest.mark.parametrize("late", list(TRANSITIONS))
def test_an_ended_job_never_changes(
    client: redis.Redis, jobs: JobRepository, end: str, late: str
) -> None:
    """A worker that seemed dead comes back late: nothing changes, and it returns False."""
    jobs.start({"size": 64})
    if end == "succeed":
        jobs.succeed(PNGS, IMAGES, ["truncated"], WHOLE)
    else:
        jobs.fail("invalid", "first")
    before = dump(client)
    assert TRANSITIONS[late](jobs) is False
    assert dump(client) == before


@pytest.mark.parametrize("late", list(TRANSITIONS))
def test_a_deleted_job_stays_deleted(client: redis.Redis, late: str) -> None:
    """No part of a record comes back without a time to live."""
    assert TRANSITIONS[late](JobRepository(client, "deleted", TTL_S)) is False
    assert dump(client) == {}
    assert JobRepository(client, "deleted", TTL_S).read() is None


@pytest.mark.parametrize("late", list(TRANSITIONS))
def test_a_job_that_is_deleted_while_it_runs_stays_deleted(
    client: redis.Redis, jobs: JobRepository, late: str
) -> None:
    """The worker still holds the record that it read."""
    assert jobs.record is not None
    client.delete(redis_keys.job("j"))
    assert TRANSITIONS[late](jobs) is False
    assert dump(client) == {}


def test_one_of_several_ends_wins(client: redis.Redis, jobs: JobRepository) -> None:
    """Eight workers end one job: it is counted once and has the images of the winner."""
    winners: list[int] = []
    barrier = threading.Barrier(8)

    def end(index: int) -> None:
        contender = JobRepository(client, "j", TTL_S)
        barrier.wait()
        if contender.succeed([b"%d" % index], IMAGES[:1], [str(index)], WHOLE):
            winners.append(index)

    threads = [threading.Thread(target=end, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended = jobs.read()
    assert len(winners) == 1
    assert ended is not None
    assert ended.outcome.warnings == [str(winners[0])]
    assert client.get(redis_keys.image("j", 0)) == b"%d" % winners[0]
    assert client.hgetall(redis_keys.OUTCOMES) == {b"generate:succeeded": b"1"}
    assert client.xlen(redis_keys.events("j")) == 1


def test_a_retried_job_keeps_its_first_start(client: redis.Redis, jobs: JobRepository) -> None:
    """Requeued it is as before it ran, apart from the time at which it first did."""
    jobs.start({"size": 64})
    first = jobs.read()
    jobs.update_progress(HALF)
    assert jobs.requeue()
    queued = jobs.read()
    assert queued is not None
    assert queued.status == "queued"
    assert queued.progress is None
    JobRepository(client, "j", TTL_S).start({"size": 64})
    again = jobs.read()
    assert first is not None
    assert again is not None
    assert again.status == "running"
    assert again.started_at == first.started_at


def test_the_event_stream_is_bounded(client: redis.Redis, jobs: JobRepository) -> None:
    """A job of many steps keeps its latest events, and its end among them."""
    jobs.start({})
    for step in range(MAX_EVENTS + 300):
        jobs.update_progress(Progress(stage="decoder", step=step, steps=2000, fraction=0))
    jobs.fail("internal", "the end")
    # Redis trims by whole nodes of 100 entries.
    assert client.xlen(redis_keys.events("j")) <= MAX_EVENTS + 100
    ((_, last),) = client.xrevrange(redis_keys.events("j"), count=1)
    assert last[b"event"] == b"ended"


def test_mean_durations_follow_the_latest_jobs(client: redis.Redis, jobs: JobRepository) -> None:
    """The first job sets the mean, each later one moves it by a fifth of the difference."""
    jobs.update_mean_durations("generate:64", 1.0)
    jobs.update_mean_durations("generate:64", 2.0)
    jobs.update_mean_durations("edit:256", 11.2)
    means = {name: float(mean) for name, mean in client.hgetall(redis_keys.MEAN_DURATIONS).items()}
    assert means == pytest.approx({b"generate:64": 1.2, b"edit:256": 11.2, b"any:None": 3.2})


def test_images_of_a_job_that_is_cancelled_meanwhile_are_deleted(
    client: redis.Redis, tmp_path: Path
) -> None:
    """The upload may take long, and a cancelled job has no images."""
    jobs = store_job(client, {"prompt": "a"})

    class SlowStore(ObjectStore):
        def put(self, contents: Mapping[str, bytes]) -> None:
            super().put(contents)
            client.hset(jobs.key, "status", "cancelled")

    jobs.store = SlowStore(f"file://{tmp_path}")
    assert jobs.start({})
    assert not jobs.succeed(PNGS, IMAGES, [], WHOLE)
    assert not list(tmp_path.rglob("*.png"))
