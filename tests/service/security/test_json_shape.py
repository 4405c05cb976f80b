"""Bodies of many fields: rejected without parsing, while other requests run."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc
from collections.abc import AsyncIterator

import httpx
import pytest

pytestmark = pytest.mark.anyio
MIB = 1 << 20
CHUNK = 1 << 16
JSON = {"content-type": "application/json"}
ROUTES = ["/generate", "/variations", "/v1/images/generations", "/gallery/images"]


async def repeat(head: bytes, part: bytes, size: int, tail: bytes) -> AsyncIterator[bytes]:
    """Yield a body of about `size` bytes in chunks, as a connection does."""
    yield head
    chunk = part * (CHUNK // len(part))
    for _ in range(size // len(chunk)):
        yield chunk
        await asyncio.sleep(0)
    yield tail


@pytest.mark.parametrize(
    ("head", "part", "tail"),
    [(b"{", b'"0":0,', b'"1":0}'), (b'{"image":[', b"[],", b"[]]}"), (b"[", b"[],", b"[]]")],
)
async def test_a_large_body_of_small_values_neither_blocks_nor_fills_the_memory(
    alone: httpx.AsyncClient, head: bytes, part: bytes, tail: bytes
) -> None:
    """64 MiB are refused; no other task waits for 50 ms of computing time."""
    longest_s = 0.0

    async def measure_pauses() -> None:
        nonlocal longest_s
        while True:
            started_at_s = time.process_time()
            await asyncio.sleep(0)
            longest_s = max(longest_s, time.process_time() - started_at_s)

    ticking = asyncio.create_task(measure_pauses())
    started_at_s = time.process_time()
    answer = await alone.post(
        "/variations", content=repeat(head, part, 63 * MIB, tail), headers=JSON
    )
    ticking.cancel()
    assert answer.status_code == 422
    assert "more than 50000 values or 10000 fields" in answer.json()["detail"]
    assert time.process_time() - started_at_s < 1
    assert longest_s < 0.05


async def test_the_rest_of_an_invalid_body_is_not_kept(alone: httpx.AsyncClient) -> None:
    """It is received, so that the client reads the response, and forgotten."""
    body = repeat(b"{", b'"0":0,', 16 * MIB, b'"1":0}')
    tracemalloc.start()
    await alone.post("/variations", content=body, headers=JSON)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * MIB


@pytest.mark.parametrize("route", ROUTES)
async def test_an_object_of_too_many_fields_is_refused(
    alone: httpx.AsyncClient, route: str
) -> None:
    """At each route, with a short answer."""
    body = {str(number): 0 for number in range(9000)}
    answer = await alone.post(route, json=body)
    assert answer.status_code in (400, 422)
    assert "an object of 9000 fields. Send at most 100" in answer.text
    assert len(answer.content) < 1000


async def test_a_nested_object_counts(alone: httpx.AsyncClient) -> None:
    """The parts of a mixture are objects, too."""
    part = {str(number): 0 for number in range(101)}
    answer = await alone.post("/generate", json={"mix": [part]})
    assert "an object of 101 fields" in answer.json()["detail"]


async def test_at_most_twenty_errors_are_reported(alone: httpx.AsyncClient) -> None:
    """And the number of the others."""
    answer = await alone.post("/generate", json={str(number): 0 for number in range(60)})
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 20
    assert answer.json()["detail"].endswith("and 40 more")
    answer = await alone.post("/v1/images/generations", json={str(n): 0 for n in range(60)})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].endswith("and 41 more.")


async def test_one_wrong_number_of_an_embedding_is_reported(alone: httpx.AsyncClient) -> None:
    """Not each of them."""
    answer = await alone.post("/generate", json={"z_i": ["a"] * 4096})
    assert [error["field"] for error in answer.json()["errors"]] == ["z_i.0"]


async def test_long_values_are_quoted_in_part(alone: httpx.AsyncClient) -> None:
    """An image may be a wrong type of 20 MB."""
    answer = await alone.post("/generate", json={"size": "x" * 100_000, "prompt": "a"})
    assert answer.status_code == 422
    assert len(answer.content) < 1000


async def test_prompts_may_have_many_colons(client: httpx.AsyncClient) -> None:
    """They are not fields."""
    mix = [{"prompt": ":" * 1000}, {"z_i": [0.5] * 4096}, {"prompt": "," * 1000}]
    answer = await client.post("/generate", content=json.dumps({"mix": mix}), headers=JSON)
    assert answer.status_code == 202
