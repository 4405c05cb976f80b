"""HEAD answers what GET does, without the body."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from support.service_jobs import as_worker, submit, succeed

from devtools.redis_server import RedisServer

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "path",
    ["/", "/healthz", "/metrics", "/jobs", "/jobs/{id}", "/jobs/{id}/images/0.png", "/v1/models"],
)
async def test_head_is_get_without_a_body(
    client: httpx.AsyncClient, redis_server: RedisServer, path: str
) -> None:
    """For pages, probes, JSON and images."""
    job_id = await submit(client)
    await as_worker(redis_server, job_id, succeed)
    path = path.format(id=job_id)
    get = await client.get(path)
    head = await client.head(path)
    assert head.status_code == get.status_code == 200
    assert head.content == b""
    assert head.headers["content-type"] == get.headers["content-type"]


async def test_head_of_a_stream_ends(client: httpx.AsyncClient) -> None:
    """The job waits, so a GET would stay open."""
    job_id = await submit(client)
    head = await asyncio.wait_for(client.head(f"/jobs/{job_id}/events"), 10)
    assert head.status_code == 200
    assert head.headers["content-type"].startswith("text/event-stream")


async def test_head_needs_a_route_that_has_get(client: httpx.AsyncClient) -> None:
    """Others are still 405 or 404."""
    assert (await client.head("/generate")).status_code == 405
    assert (await client.head("/nothing")).status_code == 404
