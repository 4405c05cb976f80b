"""The gallery's routes: keep an image of a job, search it, collect it, download it."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis.asyncio
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from support.images import provenance_fields

from contracts import redis_keys

Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
pytestmark = pytest.mark.anyio


@pytest.fixture
async def gallery_client(
    serve: Serve, tmp_path: Path, anyio_backend: str
) -> AsyncIterator[httpx.AsyncClient]:
    """A service with a gallery."""
    async with serve(gallery_url=f"sqlite:///{tmp_path}/gallery.db") as client:
        yield client


def png_with_provenance(prompt: str) -> bytes:
    """Return a PNG as a worker writes it."""
    provenance = provenance_fields(prompt, 7, size=64)
    text = PngInfo()
    text.add_text("unclip", json.dumps(provenance))
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


@pytest.fixture
def finished_job(
    gallery_client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> Callable[[str], Any]:
    """Return a function that submits a job and writes its image as a worker does."""

    async def finish(prompt: str) -> str:
        response = await gallery_client.post("/generate", json={"prompt": prompt, "size": 64})
        job_id = str(response.json()["id"])
        outcome = json.dumps({"images": [{"seed": 7, "width": 64, "height": 64}]})
        await store.hset(
            redis_keys.job(job_id), mapping={"status": "succeeded", "outcome": outcome}
        )
        await store.set(redis_keys.image(job_id, 0), png_with_provenance(prompt))
        return job_id

    return finish


async def test_a_kept_image_outlives_its_job(
    gallery_client: httpx.AsyncClient,
    finished_job: Callable[[str], Any],
    store: redis.asyncio.Redis,
) -> None:
    """It is kept once, and its file and provenance stay when Redis has lost the job."""
    job_id = await finished_job("a red dog")
    first = await gallery_client.post("/gallery/images", json={"job": job_id})
    again = await gallery_client.post("/gallery/images", json={"job": job_id, "index": 0})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    await store.flushall()
    page = (await gallery_client.get("/gallery/images", params={"query": "DOG red"})).json()
    assert [image["prompt"] for image in page["images"]] == ["a red dog"]
    file = await gallery_client.get(page["images"][0]["url"])
    assert file.content == png_with_provenance("a red dog")
    assert page["images"][0]["provenance"]["parameters"]["sampler"] == "ddim"


async def test_images_are_rated_collected_and_downloaded(
    gallery_client: httpx.AsyncClient, finished_job: Callable[[str], Any]
) -> None:
    """The zip holds what the same query lists."""
    ids = []
    for prompt in ("a dog", "a cat"):
        job_id = await finished_job(prompt)
        response = await gallery_client.post("/gallery/images", json={"job": job_id})
        ids.append(response.json()["id"])
    rated = await gallery_client.patch(f"/gallery/images/{ids[0]}", json={"stars": 5})
    assert rated.json()["stars"] == 5
    created = await gallery_client.post("/gallery/collections", json={"name": "pets"})
    collection = created.json()["id"]
    added = await gallery_client.put(f"/gallery/collections/{collection}/images/{ids[1]}")
    assert added.status_code == 204
    listed = (await gallery_client.get("/gallery/collections")).json()
    assert [(each["name"], each["images"]) for each in listed] == [("pets", 1)]
    response = await gallery_client.get("/gallery/archive.zip", params={"collection": collection})
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert sorted(archive.namelist()) == sorted([f"{ids[1]}.png", "metadata.json"])
        assert json.loads(archive.read("metadata.json"))[0]["provenance"]["prompt"] == "a cat"
    assert (await gallery_client.delete(f"/gallery/images/{ids[1]}")).status_code == 204
    assert (await gallery_client.get(f"/gallery/images/{ids[1]}")).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/gallery/images", {"job": "0" * 32}, 404),
        ("POST", "/gallery/images", {"job": "x"}, 422),
        ("POST", "/gallery/images", {"job": "0" * 32, "index": 99}, 422),
        ("GET", f"/gallery/images/{'0' * 32}", None, 404),
        ("GET", f"/gallery/images/{'0' * 32}.png?link=x", None, 404),
        ("GET", "/gallery/images?cursor=x", None, 422),
        ("GET", "/gallery/images?parameter=sampler", None, 422),
        ("GET", "/gallery/images?day=yesterday", None, 422),
        ("PATCH", f"/gallery/images/{'0' * 32}", {"stars": 9}, 422),
        ("POST", "/gallery/collections", {"name": "  "}, 422),
        ("DELETE", f"/gallery/collections/{'0' * 32}", None, 404),
    ],
)
async def test_bad_requests_are_sentences(
    gallery_client: httpx.AsyncClient, method: str, path: str, body: Any, status: int
) -> None:
    response = await gallery_client.request(method, path, json=body)
    assert response.status_code == status
    assert response.json()["detail"]


async def test_an_expired_image_cannot_be_kept(
    gallery_client: httpx.AsyncClient,
    finished_job: Callable[[str], Any],
    store: redis.asyncio.Redis,
) -> None:
    job_id = await finished_job("a dog")
    await store.delete(redis_keys.image(job_id, 0))
    response = await gallery_client.post("/gallery/images", json={"job": job_id})
    assert response.status_code == 404
    assert (await gallery_client.get("/gallery/images")).json()["images"] == []


async def test_without_a_gallery_the_remedy_is_named(client: httpx.AsyncClient) -> None:
    response = await client.get("/gallery/images")
    assert response.status_code == 404
    assert "UNCLIP_GALLERY_URL" in response.json()["detail"]


async def test_with_keys_an_image_opens_by_its_link_alone(serve: Serve, tmp_path: Path) -> None:
    """Everything else in the gallery needs the key."""
    url = f"sqlite:///{tmp_path}/gallery.db"
    async with serve(gallery_url=url, api_keys="required") as client:
        assert (await client.get("/gallery/images")).status_code == 401
        path = f"/gallery/images/{'0' * 32}.png"
        assert (await client.get(path)).status_code == 401
        assert (await client.get(path, params={"link": "x"})).status_code == 404
        assert (await client.get("/studio/style.css")).status_code == 200
        assert (await client.get("/")).status_code == 200
