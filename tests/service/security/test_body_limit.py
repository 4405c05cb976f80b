"""Bodies are bounded before anything reads them. No Redis is needed to refuse one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

pytestmark = pytest.mark.anyio
MIB = 1 << 20
JSON = {"content-type": "application/json"}


def refused(answer: httpx.Response) -> None:
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert "larger than 1048576 bytes" in answer.json()["detail"]
    assert answer.json()["status"] == 413


async def test_a_body_that_says_it_is_too_large_is_refused_unread(alone: httpx.AsyncClient) -> None:
    """By its Content-Length: not a chunk of the 50 MB is taken."""
    taken = []

    async def body() -> AsyncIterator[bytes]:
        for index in range(50):
            taken.append(index)
            yield b" " * MIB

    refused(
        await alone.post(
            "/generate", content=body(), headers=JSON | {"content-length": str(50 * MIB)}
        )
    )
    assert taken == []


async def test_a_body_that_does_not_say_its_length_is_cut_off(alone: httpx.AsyncClient) -> None:
    """As soon as too much has come, not after all of it."""
    taken = []

    async def body() -> AsyncIterator[bytes]:
        for index in range(50):
            taken.append(index)
            yield b" " * MIB

    refused(await alone.post("/generate", content=body(), headers=JSON))
    assert len(taken) <= 3


async def test_a_body_in_many_chunks_is_read_whole(client: httpx.AsyncClient) -> None:
    """The largest that may come does."""
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
async def test_a_body_that_is_not_said_to_be_json_is_refused(
    alone: httpx.AsyncClient, content_type: str | None
) -> None:
    """With what would do."""
    headers = {"content-type": content_type} if content_type else {}
    answer = await alone.post("/generate", content=b'{"prompt": "a"}', headers=headers)
    assert answer.status_code == 415
    assert answer.headers["content-type"] == "application/problem+json"
    assert (content_type or "no stated type") in answer.json()["detail"]
    assert "application/json" in answer.json()["detail"]


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8"])
async def test_json_may_be_said_in_any_case_and_with_a_charset(
    client: httpx.AsyncClient, content_type: str
) -> None:
    """Media types are case-insensitive and have parameters."""
    answer = await client.post(
        "/generate", content=b'{"prompt": "a"}', headers={"content-type": content_type}
    )
    assert answer.status_code == 202
