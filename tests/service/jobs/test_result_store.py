"""Results in an object store, from the worker that writes them to the client that reads them.

Each test runs on a folder and on S3, by moto's server.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import fsspec
import httpx
import pytest
import redis
import redis.asyncio

from contracts import redis_keys
from contracts.jobs import ImageInfo, Progress
from devtools.ports import free_port
from devtools.redis_server import RedisServer
from infra.object_store import ObjectStore, ObjectStoreError
from service.jobs.result_store import ResultStore
from service.settings import Settings
from worker.jobs.record import JobRepository
from worker.settings import Settings as WorkerSettings

pytestmark = pytest.mark.anyio
LAST = Progress(stage="decoder", step=6, steps=6, fraction=1.0)
IMAGE = [ImageInfo(seed=0, width=64, height=64)]
# More than one chunk of a streamed response.
LARGE = os.urandom(700_000)


async def finish_job(
    client: httpx.AsyncClient,
    server: RedisServer,
    store: ObjectStore | None,
    images: list[bytes],
    animation: bytes,
) -> str:
    """Submit a job, end it as a worker with these results, and return its id."""
    answer = await client.post("/generate", json={"prompt": "a", "n": len(images)})
    job_id = str(answer.json()["id"])

    def work() -> None:
        with redis.Redis.from_url(server.url) as connection:
            record = JobRepository(connection, job_id, 100, store)
            record.start({})
            infos = [ImageInfo(seed=at, width=64, height=64) for at in range(len(images))]
            assert record.succeed(images, infos, [], LAST, animation=("webp", animation))

    await asyncio.to_thread(work)
    return job_id


async def test_results_are_stored_and_read(
    serve: Any, redis_server: RedisServer, store: redis.asyncio.Redis, store_url: str
) -> None:
    """Images and animation come from the object store, and Redis holds none of them."""
    async with serve(object_store_url=store_url) as client:
        job_id = await finish_job(
            client, redis_server, ObjectStore(store_url), [b"\x89PNG one", LARGE], b"RIFF"
        )
        keys = await store.keys(f"{redis_keys.job(job_id)}:*")
        assert [key for key in keys if not key.endswith(b":events")] == []
        for path, content, media_type in (
            ("images/0.png", b"\x89PNG one", "image/png"),
            ("images/1.png", LARGE, "image/png"),
            ("animation", b"RIFF", "image/webp"),
        ):
            answer = await client.get(f"/jobs/{job_id}/{path}")
            assert answer.content == content
            assert answer.headers["content-type"] == media_type
            assert answer.headers["content-length"] == str(len(content))
        assert (await client.get(f"/jobs/{job_id}/images/2.png")).status_code == 404


async def test_a_stored_image_is_an_input_of_another_job(
    serve: Any, redis_server: RedisServer, store_url: str
) -> None:
    """It is read from the object store; this one is then refused as no PNG."""
    async with serve(object_store_url=store_url) as client:
        job_id = await finish_job(
            client, redis_server, ObjectStore(store_url), [b"\x89PNG one"], b"RIFF"
        )
        answer = await client.post("/variations", json={"image": {"job": job_id, "index": 0}})
        assert answer.status_code == 422
        assert "there is no image" not in answer.json()["detail"]


@pytest.mark.parametrize("is_stored", [True, False])
async def test_a_cached_image_is_not_sent_again(
    serve: Any, redis_server: RedisServer, tmp_path: Path, is_stored: bool
) -> None:
    """ETag and If-None-Match work alike for the object store and for Redis."""
    url = f"file://{tmp_path}/store" if is_stored else None
    async with serve(object_store_url=url) as client:
        store = ObjectStore(url) if url else None
        job_id = await finish_job(client, redis_server, store, [b"one", b"two"], b"RIFF")
        first = await client.get(f"/jobs/{job_id}/images/0.png")
        second = await client.get(f"/jobs/{job_id}/images/1.png")
        etag = first.headers["etag"]
        assert etag != second.headers["etag"]
        assert "immutable" in first.headers["cache-control"]
        for condition, status, content in (
            (etag, 304, b""),
            (f'"x", W/{etag}', 304, b""),
            ("*", 304, b""),
            ('"x"', 200, b"one"),
        ):
            answer = await client.get(
                f"/jobs/{job_id}/images/0.png", headers={"if-none-match": condition}
            )
            assert answer.status_code == status
            assert answer.content == content


async def test_an_expired_job_has_no_images(
    serve: Any, redis_server: RedisServer, store: redis.asyncio.Redis, store_url: str
) -> None:
    """The object store may still hold them for a moment."""
    async with serve(object_store_url=store_url) as client:
        job_id = await finish_job(client, redis_server, ObjectStore(store_url), [b"one"], b"RIFF")
        await store.delete(redis_keys.job(job_id))
        for path in ("images/0.png", "animation"):
            assert (await client.get(f"/jobs/{job_id}/{path}")).status_code == 404
        answer = await client.post("/variations", json={"image": {"job": job_id, "index": 0}})
    assert "there is no image 0" in answer.json()["detail"]


async def test_results_in_redis_are_read_after_a_store_is_set(
    serve: Any, redis_server: RedisServer, store_url: str
) -> None:
    """The setting may change while jobs are stored."""
    async with serve(object_store_url=store_url) as client:
        job_id = await finish_job(client, redis_server, None, [b"one"], b"RIFF")
        assert (await client.get(f"/jobs/{job_id}/images/0.png")).content == b"one"
        assert (await client.get(f"/jobs/{job_id}/animation")).content == b"RIFF"


async def test_an_unavailable_store_is_503(
    serve: Any, redis_server: RedisServer, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only for reading images; the job itself is reported."""
    async with serve() as client:
        job_id = await finish_job(client, redis_server, ObjectStore(s3), [b"one"], b"RIFF")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    fsspec.filesystem("s3").clear_instance_cache()
    async with serve(object_store_url=s3) as client:
        answer = await client.get(f"/jobs/{job_id}/images/0.png")
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert "object store" in answer.json()["detail"]
        assert (await client.get(f"/jobs/{job_id}")).json()["status"] == "succeeded"
    fsspec.filesystem("s3").clear_instance_cache()


async def test_a_job_whose_result_cannot_be_stored_is_retried(
    serve: Any, redis_server: RedisServer, tmp_path: Path
) -> None:
    """The error reaches RQ, the job keeps running, and the next attempt succeeds."""
    (tmp_path / "store").write_text("a file in place of the folder")
    url = f"file://{tmp_path}/store"
    async with serve(object_store_url=url) as client:
        job_id = (await client.post("/generate", json={"prompt": "a"})).json()["id"]
        with redis.Redis.from_url(redis_server.url) as connection:
            record = JobRepository(connection, job_id, 100, ObjectStore(url, retry_for_s=1))
            record.start({})
            with pytest.raises(ObjectStoreError, match=r"refused jobs/.*/0.png"):
                record.succeed([b"one"], IMAGE, [], LAST)
            assert (await client.get(f"/jobs/{job_id}")).json()["status"] == "running"
            (tmp_path / "store").unlink()
            assert record.succeed([b"one"], IMAGE, [], LAST)
        assert (await client.get(f"/jobs/{job_id}/images/0.png")).content == b"one"


async def test_an_ended_job_is_not_overwritten(
    redis_server: RedisServer, serve: Any, tmp_path: Path
) -> None:
    """A worker that was presumed dead comes back late."""
    url = f"file://{tmp_path}/store"
    async with serve(object_store_url=url) as client:
        job_id = await finish_job(client, redis_server, ObjectStore(url), [b"one"], b"RIFF")
        with redis.Redis.from_url(redis_server.url) as connection:
            late = JobRepository(connection, job_id, 100, ObjectStore(url))
            assert late.succeed([b"late"], IMAGE, [], LAST) is False
        assert (await client.get(f"/jobs/{job_id}/images/0.png")).content == b"one"


@pytest.mark.parametrize("settings", [Settings, WorkerSettings])
def test_both_processes_check_the_url_at_start(settings: Any) -> None:
    """An invalid URL ends the process before the first job."""
    with pytest.raises(ValueError, match="it is not a URL"):
        settings(object_store_url="images")


async def test_a_missing_result_is_none(store_url: str) -> None:
    """The route turns it into 404."""
    assert await ResultStore(store_url).open("jobs/none/0.png") is None
    assert await ResultStore(store_url).read("jobs/none/0.png") is None
