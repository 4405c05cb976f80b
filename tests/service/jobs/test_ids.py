"""Text in place of a job's id: not found, never another key of Redis."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest
from support.service_jobs import as_worker, submit, succeed

from devtools.redis_server import RedisServer

pytestmark = pytest.mark.anyio
SUFFIXES = [":image:0", ":events", ":input:image", "0", "\n", ""]


@pytest.mark.parametrize("suffix", SUFFIXES[:-1])
@pytest.mark.parametrize("path", ["", "/events", "/images/0.png", "/images/0.json", "/animation"])
async def test_a_malformed_id_is_not_found(
    client: httpx.AsyncClient, redis_server: RedisServer, suffix: str, path: str
) -> None:
    """Whether the job exists or not, so no client learns which jobs there are."""
    job_id = await submit(client)
    await as_worker(redis_server, job_id, succeed)
    for job in (job_id, "0" * 32):
        url = f"/jobs/{job}{suffix}{path}".replace("\n", "%0a")
        assert (await client.get(url)).status_code == 404
        assert (await client.delete(f"/jobs/{job}{suffix}".replace("\n", "%0a"))).status_code == 404


@pytest.mark.parametrize("suffix", SUFFIXES[:-1])
async def test_a_malformed_reference_is_422(
    client: httpx.AsyncClient, redis_server: RedisServer, suffix: str
) -> None:
    """In the words for an image that does not exist."""
    job_id = await submit(client)
    await as_worker(redis_server, job_id, succeed)
    answer = await client.post("/variations", json={"image": {"job": job_id + suffix}})
    assert answer.status_code == 422
    assert "there is no image 0 of a job" in answer.json()["detail"]


@pytest.mark.parametrize(
    "text", ["1_0 x", "٣ x", "1\n x", "1 x", "-1 0:", "1 0", " 1 0:", "1 0:\n"]
)
async def test_a_malformed_cursor_is_422(client: httpx.AsyncClient, text: str) -> None:
    """It does not reach Redis."""
    params: dict[str, Any] = {"cursor": base64.urlsafe_b64encode(text.encode()).decode()}
    answer = await client.get("/jobs", params=params)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["cursor"]
