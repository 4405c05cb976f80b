"""Memory of large images: one is decoded at a time, and none that is too large with the others."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from typing import Any

import httpx
import pytest
from PIL import Image

from service.requests import parse
from service.requests.serial import run_serially

pytestmark = pytest.mark.anyio


def to_base64(image: Image.Image, kind: str = "WEBP", **options: Any) -> str:
    """Return an image as a file in base64."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return base64.b64encode(buffer.getvalue()).decode()


async def test_all_images_of_a_request_have_a_limit(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight small files of 25 megapixels each are refused before any of them is decoded."""
    monkeypatch.setattr(parse, "open_image", None)
    image = to_base64(Image.new("RGBA", (5000, 5000)), lossless=True, method=0)
    assert len(image) < 100
    answer = await client.post("/generate", json={"mix": [{"image": image}] * 8, "size": 64})
    assert answer.status_code == 422
    assert "have 200000000 pixels together; send at most 100000000" in answer.json()["detail"]


async def test_images_are_decoded_one_after_the_other(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of one request, and those of concurrent requests."""
    open_image = parse.open_image
    running = 0
    most = 0
    lock = threading.Lock()

    def open_and_count(*arguments: Any) -> Image.Image:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        image = open_image(*arguments)
        with lock:
            running -= 1
        return image

    monkeypatch.setattr(parse, "open_image", open_and_count)
    image = to_base64(Image.new("RGB", (1500, 1500)), "PNG")
    body = {"image_a": image, "image_b": image}
    answers = await asyncio.gather(*(client.post("/interpolate", json=body) for _ in range(3)))
    assert [answer.status_code for answer in answers] == [202, 202, 202]
    assert most == 1


async def test_the_loop_runs_while_an_image_is_decoded() -> None:
    """A blocking function runs in a thread, and the next one waits for it."""
    order: list[str] = []
    release = threading.Event()

    def block() -> None:
        order.append("first")
        release.wait(10)

    first = asyncio.create_task(run_serially(block))
    second = asyncio.create_task(run_serially(order.append, "second"))
    await asyncio.sleep(0.05)
    assert order == ["first"]
    release.set()
    await asyncio.gather(first, second)
    assert order == ["first", "second"]
