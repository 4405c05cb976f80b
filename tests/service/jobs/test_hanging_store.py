"""An object store that accepts connections and never answers."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.service_jobs import as_worker, submit, succeed

from contracts import redis_keys
from devtools.redis_server import RedisServer
from service.jobs import result_store
from service.storage_threads import StorageThreads

pytestmark = pytest.mark.anyio


@pytest.fixture
def hanging_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the URL of a store that hangs, with short deadlines."""
    monkeypatch.setattr(result_store, "READ_TIMEOUT_S", 2)
    monkeypatch.setattr(result_store, "StorageThreads", lambda: StorageThreads(deadline_s=1.5))
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "a")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield "s3://images"


async def succeed_without_image(redis_server: RedisServer, job_id: str, store: Any) -> None:
    """Let a job succeed whose image is in the object store."""
    await as_worker(redis_server, job_id, succeed)
    await store.delete(redis_keys.image(job_id, 0))


async def test_reads_of_a_hanging_store_do_not_block_requests(
    serve: Any, redis_server: RedisServer, store: Any, hanging_store: str
) -> None:
    """45 of them get 503 at the deadline, and a request is accepted meanwhile."""
    async with serve(object_store_url=hanging_store) as client:
        job_id = await submit(client)
        await succeed_without_image(redis_server, job_id, store)
        path = f"/jobs/{job_id}/images/0.png"
        started_at = time.monotonic()
        reads = [asyncio.create_task(client.get(path)) for _ in range(45)]
        await asyncio.sleep(0.3)
        await submit(client)
        assert not any(read.done() for read in reads)
        answers = await asyncio.gather(*reads)
        assert {answer.status_code for answer in answers} == {503}
        assert {answer.headers["retry-after"] for answer in answers} == {"5"}
        assert time.monotonic() - started_at < 10


async def test_calls_that_wait_for_a_thread_never_run() -> None:
    """At their deadline they leave the queue."""
    threads = StorageThreads(num_threads=1, deadline_s=0.1)
    ran: list[str] = []
    first = asyncio.create_task(threads.run(time.sleep, 0.4))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await threads.run(ran.append, "second")
    with pytest.raises(TimeoutError):
        await first
    await asyncio.sleep(0.5)
    assert ran == []
    assert await threads.run(str, 3) == "3"
