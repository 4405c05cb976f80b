"""Limits on bodies, applied before anything reads them. No test needs Redis to be rejected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from service.security import body_limit

pytestmark = pytest.mark.anyio
MIB = 1 << 20
JSON = {"content-type": "application/json"}


async def chunks_of_1_mib(sent: list[int]) -> AsyncIterator[bytes]:
    for index in range(50):
        sent.append(index)
        yield b" " * MIB


def assert_too_large(answer: httpx.Response) -> None:
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["connection"] == "close"
    assert "exceeds 1048576 bytes" in answer.json()["detail"]
    assert answer.json()["status"] == 413


async def test_a_body_with_a_large_content_length_is_not_read(alone: httpx.AsyncClient) -> None:
    """Not one of its chunks."""
    sent: list[int] = []
    headers = JSON | {"content-length": str(50 * MIB)}
    answer = await alone.post("/gallery/images", content=chunks_of_1_mib(sent), headers=headers)
    assert_too_large(answer)
    assert sent == []


async def test_a_large_body_without_a_length_is_cut_off(alone: httpx.AsyncClient) -> None:
    """As soon as too much has arrived."""
    sent: list[int] = []
    answer = await alone.post("/gallery/images", content=chunks_of_1_mib(sent), headers=JSON)
    assert_too_large(answer)
    assert len(sent) <= 3


async def test_a_body_in_many_chunks_is_read_whole(client: httpx.AsyncClient) -> None:
    """Up to the limit."""
    head = b'{"prompt": "a'
    tail = b'"}'

    async def body() -> AsyncIterator[bytes]:
        yield head
        for _ in range(100):
            yield b"b"
        yield tail + b" " * (MIB - len(head) - len(tail) - 100)

    answer = await client.post("/generate", content=body(), headers=JSON)
    assert answer.status_code == 202
    assert answer.json()["parameters"]["prompt"] == "a" + "b" * 100


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonl",
        "application/problem+json",
    ],
)
async def test_another_media_type_is_415(
    alone: httpx.AsyncClient, content_type: str | None
) -> None:
    """The response names the type and the expected one."""
    headers = {"content-type": content_type} if content_type else {}
    answer = await alone.post("/generate", content=b'{"prompt": "a"}', headers=headers)
    assert answer.status_code == 415
    assert answer.headers["content-type"] == "application/problem+json"
    assert (content_type or "no stated type") in answer.json()["detail"]
    assert "application/json" in answer.json()["detail"]


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8"])
async def test_media_types_are_case_insensitive(
    client: httpx.AsyncClient, content_type: str
) -> None:
    """And may have parameters."""
    answer = await client.post(
        "/generate", content=b'{"prompt": "a"}', headers={"content-type": content_type}
    )
    assert answer.status_code == 202


async def test_a_body_that_stops_is_408(
    alone: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection and its memory are free again."""
    monkeypatch.setattr(body_limit, "MAX_PAUSE_S", 0.05)

    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    answer = await alone.post("/generate", content=body(), headers=JSON)
    assert answer.status_code == 408
    assert answer.headers["connection"] == "close"


async def test_a_body_that_drips_is_408(
    alone: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then does not keep a connection open."""
    monkeypatch.setattr(body_limit, "GRACE_S", 0.2)

    async def body() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.01)

    answer = await alone.post("/generate", content=body(), headers=JSON)
    assert answer.status_code == 408


async def test_all_bodies_together_have_a_limit(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Further ones get 503, until the first ones have arrived."""
    monkeypatch.setattr(body_limit, "MAX_LARGEST_BODIES", 1)
    first_is_half_sent = asyncio.Event()
    release = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b" " * MIB
        first_is_half_sent.set()
        await release.wait()
        yield b'{"prompt": "a"}'

    async with serve(max_upload_bytes=MIB + 1000) as client:
        first = asyncio.create_task(client.post("/generate", content=body(), headers=JSON))
        await first_is_half_sent.wait()
        refused = await client.post("/generate", content=b" " * 2000, headers=JSON)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "5"
        release.set()
        assert (await first).status_code == 202
        assert (await client.post("/generate", json={"prompt": "a"})).status_code == 202
