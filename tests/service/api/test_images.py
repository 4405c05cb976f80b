"""A job's image as it is asked for: reduced, or in another format."""

from __future__ import annotations

import io
from typing import Any

import httpx
import pytest
import redis
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from contracts.jobs import ImageInfo, Progress
from devtools.redis_server import RedisServer
from service.api.images import formed
from worker.jobs.record import JobRepository


def png(size: int) -> bytes:
    """A gradient that says how it was drawn."""
    info = PngInfo()
    buffer = io.BytesIO()
    info.add_text("unclip", "{}")
    Image.linear_gradient("L").resize((size, size)).convert("RGB").save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def opened(content: bytes) -> Any:
    return Image.open(io.BytesIO(content))


def test_an_image_that_is_so_already_stays_to_the_byte() -> None:
    """With its size said, or left as it is."""
    assert formed(png(64), 64) == formed(png(64), None) == png(64)


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
def test_an_image_changes_size_and_format(kind: str) -> None:
    """Larger or smaller, it shows the same; a PNG goes on saying how it was drawn, and that it was reduced."""
    for side in (32, 64, 128):
        image = opened(formed(png(64), side, kind, 95))
        assert image.format == kind.upper()
        assert image.size == (side, side)
        top, bottom = (image.convert("L").getpixel((side // 2, row)) for row in (2, side - 3))
        assert top < 30
        assert bottom > 225
        assert kind != "png" or image.text == {"unclip": "{}"} | (
            {"reduced_to": "32"} if side == 32 else {}
        )


@pytest.mark.anyio
async def test_a_jobs_image_comes_reduced(
    client: httpx.AsyncClient, redis_server: RedisServer
) -> None:
    """Under a tag of its own; one that is no wider comes as it is."""
    job_id = (await client.post("/generate", json={"prompt": "a", "size": 64})).json()["id"]
    with redis.Redis.from_url(redis_server.url) as connection:
        whole = Progress(stage="decoder", step=1, steps=1, fraction=1.0)
        JobRepository(connection, job_id, 100).succeed(
            [png(64)], [ImageInfo(seed=1, width=64, height=64)], [], whole
        )
    url = f"/jobs/{job_id}/images/0.png"
    small = await client.get(url, params={"size": 32})
    same = await client.get(url, params={"size": 64})
    assert small.content == formed(png(64), 32)
    assert same.content == png(64)
    assert small.headers["etag"] != same.headers["etag"]
    again = await client.get(
        url, params={"size": 32}, headers={"if-none-match": small.headers["etag"]}
    )
    assert again.status_code == 304
    assert not again.content
    assert (await client.get(url, params={"size": 15})).status_code == 422
