"""Results in an object store, from the worker that writes them to the client that reads them: in a folder, and in S3 by moto's server."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import redis.asyncio

from contracts import redis_keys
from contracts.jobs import ImageInfo, Progress
from devtools.ports import free_port
from devtools.redis_server import RedisServer
from service.settings import Settings
from service.store import Store as Reader
from worker.jobs.record import JobRecord
from worker.settings import Settings as WorkerSettings
from worker.store import Store, StoreError

pytestmark = pytest.mark.anyio
WHOLE = Progress(stage="decoder", step=6, steps=6, fraction=1.0)
BIG = os.urandom(700_000)  # more than one piece of a stream


async def drawn(
    client: httpx.AsyncClient,
    server: RedisServer,
    store: Store | None,
    images: list[bytes],
    moving: bytes,
) -> str:
    """A job whose worker drew these; its id."""
    job_id = str(
        (await client.post("/generate", json={"prompt": "a", "n": len(images)})).json()["id"]
    )

    def work() -> None:
        with redis.Redis.from_url(server.url) as connection:
            record = JobRecord(connection, job_id, 100, store)
            record.start({})
            told = [ImageInfo(seed=at, width=64, height=64) for at in range(len(images))]
            assert record.succeed(images, told, [], WHOLE, animation=("webp", moving))

    await asyncio.to_thread(work)
    return job_id


async def test_what_is_drawn_is_stored_and_read(
    serve: Any, redis_server: RedisServer, store: redis.asyncio.Redis, store_url: str
) -> None:
    """ImageInfo, animation, the image of an earlier job; and nothing of it lies in Redis."""
    async with serve(store=store_url) as client:
        job_id = await drawn(client, redis_server, Store(store_url), [b"\x89PNG one", BIG], b"RIFF")
        assert [
            key
            for key in await store.keys(f"{redis_keys.job(job_id)}:*")
            if not key.endswith(b":events")
        ] == []
        answers = [
            await client.get(f"/jobs/{job_id}/{what}")
            for what in ("images/0.png", "images/1.png", "animation")
        ]
        assert [answer.content for answer in answers] == [b"\x89PNG one", BIG, b"RIFF"]
        assert [answer.headers["content-type"] for answer in answers] == [
            "image/png",
            "image/png",
            "image/webp",
        ]
        assert [int(answer.headers["content-length"]) for answer in answers] == [8, len(BIG), 4]
        assert (await client.get(f"/jobs/{job_id}/images/2.png")).status_code == 404
        refused = await client.post(
            "/variations", json={"image": {"job": job_id, "index": 0}}
        )  # was found, and is no image
        assert refused.status_code == 422
        assert "there is no image" not in refused.json()["detail"]


@pytest.mark.parametrize("stored", [True, False])
async def test_what_a_client_has_is_not_sent_again(
    serve: Any, redis_server: RedisServer, tmp_path: Path, stored: bool
) -> None:
    """ETag and If-None-Match, from the store and from Redis alike."""
    url = f"file://{tmp_path}/store" if stored else None
    async with serve(store=url) as client:
        job_id = await drawn(
            client, redis_server, Store(url) if url else None, [b"one", b"two"], b"RIFF"
        )
        first, other = [await client.get(f"/jobs/{job_id}/images/{at}.png") for at in (0, 1)]
        assert first.headers["etag"] != other.headers["etag"]
        assert "immutable" in first.headers["cache-control"]
        for known, status in (
            (first.headers["etag"], 304),
            (f'"x", W/{first.headers["etag"]}', 304),
            ("*", 304),
            ('"x"', 200),
        ):
            again = await client.get(
                f"/jobs/{job_id}/images/0.png", headers={"if-none-match": known}
            )
            assert again.status_code == status and again.content == (
                b"" if status == 304 else b"one"
            ), known


async def test_a_job_that_expired_has_no_images(
    serve: Any, redis_server: RedisServer, store: redis.asyncio.Redis, store_url: str
) -> None:
    """Though the store still holds them for a moment."""
    async with serve(store=store_url) as client:
        job_id = await drawn(client, redis_server, Store(store_url), [b"one"], b"RIFF")
        await store.delete(redis_keys.job(job_id))
        answers = [
            await client.get(f"/jobs/{job_id}/{what}") for what in ("images/0.png", "animation")
        ]
        again = await client.post("/variations", json={"image": {"job": job_id, "index": 0}})
    assert [answer.status_code for answer in answers] == [404, 404]
    assert "there is no image 0" in again.json()["detail"]


async def test_what_lay_in_redis_before_is_still_read(
    serve: Any, redis_server: RedisServer, store_url: str
) -> None:
    """The setting may be changed while jobs are kept."""
    async with serve(store=store_url) as client:
        job_id = await drawn(client, redis_server, None, [b"one"], b"RIFF")
        assert (await client.get(f"/jobs/{job_id}/images/0.png")).content == b"one"
        assert (await client.get(f"/jobs/{job_id}/animation")).content == b"RIFF"


async def test_a_store_that_is_away_is_503(
    serve: Any, redis_server: RedisServer, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On reading; the job itself is told as ever."""
    import fsspec

    async with serve() as client:
        job_id = await drawn(client, redis_server, Store(s3), [b"one"], b"RIFF")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    fsspec.filesystem("s3").clear_instance_cache()
    async with serve(store=s3) as client:
        answer = await client.get(f"/jobs/{job_id}/images/0.png")
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert "object store" in answer.json()["detail"]
        assert (await client.get(f"/jobs/{job_id}")).json()["status"] == "succeeded"
    fsspec.filesystem("s3").clear_instance_cache()


async def test_a_store_that_takes_nothing_leaves_the_job_to_be_tried_again(
    serve: Any, redis_server: RedisServer, tmp_path: Path
) -> None:
    """The error leaves the task, which is how RQ knows; once there is room the same job succeeds."""
    (tmp_path / "store").write_text("a file where the folder should be")
    url = f"file://{tmp_path}/store"
    async with serve(store=url) as client:
        job_id = (await client.post("/generate", json={"prompt": "a"})).json()["id"]
        with redis.Redis.from_url(redis_server.url) as connection:
            record = JobRecord(connection, job_id, 100, Store(url, patience=1))
            record.start({})
            with pytest.raises(StoreError, match=r"did not take jobs/.*/0.png"):
                record.succeed([b"one"], [ImageInfo(seed=0, width=64, height=64)], [], WHOLE)
            assert (await client.get(f"/jobs/{job_id}")).json()["status"] == "running"
            (tmp_path / "store").unlink()
            assert record.succeed([b"one"], [ImageInfo(seed=0, width=64, height=64)], [], WHOLE)
        assert (await client.get(f"/jobs/{job_id}/images/0.png")).content == b"one"


async def test_a_job_that_has_ended_is_not_written_over(
    redis_server: RedisServer, serve: Any, tmp_path: Path
) -> None:
    """A worker that was thought dead comes back late."""
    url = f"file://{tmp_path}/store"
    async with serve(store=url) as client:
        job_id = await drawn(client, redis_server, Store(url), [b"one"], b"RIFF")
        with redis.Redis.from_url(redis_server.url) as connection:
            late = JobRecord(connection, job_id, 100, Store(url))
            assert (
                late.succeed([b"late"], [ImageInfo(seed=0, width=64, height=64)], [], WHOLE)
                is False
            )
        assert (await client.get(f"/jobs/{job_id}/images/0.png")).content == b"one"


@pytest.mark.parametrize("settings", [Settings, WorkerSettings])
@pytest.mark.parametrize(
    ("url", "said"), [("images", "it is no URL"), ("nowhere://x", "nowhere"), ("gs2://x", "gs2")]
)
def test_a_store_that_will_not_do_is_said_at_the_start(settings: Any, url: str, said: str) -> None:
    """With what would do."""
    with pytest.raises(ValueError, match=f"(?s){said}.*name file:///folder or s3://bucket/prefix"):
        settings(store=url)


async def test_nothing_is_found_where_nothing_is(store_url: str) -> None:
    """None, and no error."""
    assert await Reader(store_url).open("jobs/none/0.png") is None
    assert await Reader(store_url).read("jobs/none/0.png") is None
