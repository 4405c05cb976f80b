"""Images of a job: reduced, in another format, with their provenance, from either store."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from contracts.jobs import ImageInfo, Progress
from contracts.provenance import Provenance
from devtools.redis_server import RedisServer
from infra.object_store import ObjectStore
from service.jobs.images import convert_image
from worker.jobs.images import encode_png
from worker.jobs.record import JobRepository

pytestmark = pytest.mark.anyio
FINISHED = Progress(stage="decoder", step=6, steps=6, fraction=1.0)
PROVENANCE = {
    "operation": "variations",
    "seed": 8,
    "index": 1,
    "parameters": {"size": 64, "eta": 0.5},
    "inputs": {"image": "ab" * 32},
    "prior_candidate": None,
    "checkpoint": "tiny",
    "checkpoint_digest": "cd" * 32,
    "version": "0.1.0",
    "torch": "2.6.0",
    "device": "cpu",
    "dtype": "float32",
    "prompt": 'ein "roter" Würfel',
}


def gradient_png(size: int) -> bytes:
    """Return a PNG that is black at the top and white at the bottom, with a text chunk."""
    text = PngInfo()
    text.add_text("unclip", "{}")
    buffer = io.BytesIO()
    image = Image.linear_gradient("L").resize((size, size)).convert("RGB")
    image.save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


async def create_succeeded_job(
    client: httpx.AsyncClient,
    server: RedisServer,
    pngs: Sequence[bytes],
    *,
    size: int = 4,
    store: ObjectStore | None = None,
) -> str:
    """Submit a job, let it succeed with these PNGs, and return its id."""
    job_id = str((await client.post("/generate", json={"prompt": "a"})).json()["id"])

    def succeed() -> bool:
        with redis.Redis.from_url(server.url) as connection:
            jobs = JobRepository(connection, job_id, 100, store)
            jobs.start({})
            images = [ImageInfo(seed=0, width=size, height=size)] * len(pngs)
            return jobs.succeed(pngs, images, [], FINISHED)

    assert await asyncio.to_thread(succeed)
    return job_id


@pytest.mark.parametrize("side", [64, None])
def test_an_unchanged_image_keeps_its_bytes(side: int | None) -> None:
    """An image of the requested size and format is not encoded again."""
    assert convert_image(gradient_png(64), side) == gradient_png(64)


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
@pytest.mark.parametrize("side", [32, 64, 128])
def test_an_image_changes_size_and_format(kind: str, side: int) -> None:
    """A converted image has the same content in the requested size and format."""
    image = Image.open(io.BytesIO(convert_image(gradient_png(64), side, kind, 95)))
    assert image.format == kind.upper()
    assert image.size == (side, side)
    gray = image.convert("L")
    assert gray.getpixel((side // 2, 2)) < 30  # type: ignore[operator]
    assert gray.getpixel((side // 2, side - 3)) > 225  # type: ignore[operator]


@pytest.mark.parametrize(
    ("side", "text"), [(32, {"unclip": "{}", "reduced_to": "32"}), (128, {"unclip": "{}"})]
)
def test_a_png_keeps_its_text(side: int, text: dict[str, str]) -> None:
    """A converted PNG keeps its provenance, and a reduced one says so."""
    image: Any = Image.open(io.BytesIO(convert_image(gradient_png(64), side)))
    assert image.text == text


async def test_an_image_is_reduced_on_request(
    client: httpx.AsyncClient, redis_server: RedisServer
) -> None:
    """`size` reduces larger images; each size has its ETag."""
    job_id = await create_succeeded_job(client, redis_server, [gradient_png(64)], size=64)
    url = f"/jobs/{job_id}/images/0.png"
    small = await client.get(url, params={"size": 32})
    same = await client.get(url, params={"size": 64})
    assert small.content == convert_image(gradient_png(64), 32)
    assert same.content == gradient_png(64)
    assert small.headers["etag"] != same.headers["etag"]
    assert (await client.get(url, params={"size": 15})).status_code == 422


@pytest.mark.parametrize("params", [{}, {"size": 32}])
async def test_an_unchanged_image_is_not_sent_again(
    client: httpx.AsyncClient, redis_server: RedisServer, params: dict[str, int]
) -> None:
    """If-None-Match with the ETag of the image gives 304 without a body."""
    job_id = await create_succeeded_job(client, redis_server, [gradient_png(64)], size=64)
    url = f"/jobs/{job_id}/images/0.png"
    etag = (await client.get(url, params=params)).headers["etag"]
    for value in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        response = await client.get(url, params=params, headers={"if-none-match": value})
        assert response.status_code == 304
        assert not response.content


@pytest.mark.parametrize("in_store", [False, True])
async def test_the_provenance_of_an_image_has_a_route(
    serve: Any, redis_server: RedisServer, tmp_path: Path, in_store: bool
) -> None:
    """The route returns the PNG's text chunk, fields of the request included."""
    url = f"file://{tmp_path}/store" if in_store else None
    pngs = [encode_png(torch.zeros(3, 4, 4), PROVENANCE | {"index": index}) for index in (0, 1)]
    async with serve(object_store_url=url) as client:
        store = ObjectStore(url) if url else None
        job_id = await create_succeeded_job(client, redis_server, pngs, store=store)
        response = await client.get(f"/jobs/{job_id}/images/1.json")
        document = (await client.get("/openapi.json")).json()
    assert response.status_code == 200
    assert response.json() == PROVENANCE
    assert Provenance.model_validate(response.json()).request == {"prompt": PROVENANCE["prompt"]}
    schema = document["components"]["schemas"]["Provenance"]
    assert set(schema["properties"]) == set(PROVENANCE) - {"prompt"}


async def test_an_image_without_provenance_is_404(
    client: httpx.AsyncClient, redis_server: RedisServer
) -> None:
    """The problem says why there is no provenance."""
    pngs = [encode_png(torch.zeros(3, 4, 4), {}), b"not a PNG"]
    job_id = await create_succeeded_job(client, redis_server, pngs)
    waiting = (await client.post("/generate", json={"prompt": "a"})).json()["id"]
    details = {
        f"{job_id}/images/0": "has no readable provenance",
        f"{job_id}/images/1": "it is not a PNG",
        f"{job_id}/images/2": "has 2 images; there is none at 2",
        f"{waiting}/images/0": "is queued",
        "missing/images/0": "no job 'missing'",
    }
    for path, detail in details.items():
        response = await client.get(f"/jobs/{path}.json")
        assert response.status_code == 404
        assert detail in response.json()["detail"]
