"""The id of a request: on its response, its log lines and its job."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("request_id", ["7", "a b", "~" * 128])
async def test_a_client_may_choose_the_id(alone: httpx.AsyncClient, request_id: str) -> None:
    """Of printable ASCII characters, up to 128 of them."""
    answer = await alone.get("/healthz", headers={"x-request-id": request_id})
    assert answer.headers["x-request-id"] == request_id


@pytest.mark.parametrize("request_id", [b"", b"~" * 129, "é".encode(), b"a\tb", b"\x1b[31m"])
async def test_an_unusable_id_is_replaced(alone: httpx.AsyncClient, request_id: bytes) -> None:
    """By a new one for each request; the request itself is served."""
    first = await alone.get("/healthz", headers={"x-request-id": request_id})
    second = await alone.get("/healthz", headers={"x-request-id": request_id})
    assert re.fullmatch("[0-9a-f]{32}", first.headers["x-request-id"])
    assert re.fullmatch("[0-9a-f]{32}", second.headers["x-request-id"])
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


async def test_a_job_stores_the_id_of_its_request(client: httpx.AsyncClient) -> None:
    """Later requests for the job, and a repeat of the first, do not change it."""
    key = {"idempotency-key": "k"}
    first = {"x-request-id": "first"}
    second = {"x-request-id": "second"}
    created = await client.post("/generate", json={"prompt": "a"}, headers=key | first)
    repeated = await client.post("/generate", json={"prompt": "a"}, headers=key | second)
    assert created.json()["request_id"] == "first"
    assert repeated.json()["request_id"] == "first"
    assert repeated.headers["x-request-id"] == "second"
    job = await client.get(f"/jobs/{created.json()['id']}")
    assert job.json()["request_id"] == "first"


async def test_a_stream_carries_the_id(serve: Any) -> None:
    """Events are a response like any other."""
    async with serve() as client:
        job = (await client.post("/generate", json={"prompt": "a"})).json()
        await client.delete(f"/jobs/{job['id']}")
        answer = await client.get(f"/jobs/{job['id']}/events", headers={"x-request-id": "e"})
    assert answer.headers["x-request-id"] == "e"
    assert "event: ended" in answer.text
