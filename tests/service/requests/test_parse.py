"""Bodies with images, as JSON and as a form, until the worker can read them in Redis."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import pytest
import redis.asyncio
from PIL import Image
from support.service_jobs import as_worker, submit

from contracts import redis_keys
from contracts.jobs import ImageInfo, JobOutcome, JobSpec, Progress, encode_fields
from devtools.redis_server import RedisServer

pytestmark = pytest.mark.anyio
FINISHED = Progress(stage="decoder", step=6, steps=6, fraction=1.0)


def make_png(width: int = 8, height: int = 8, color: Any = (255, 0, 0), mode: str = "RGB") -> bytes:
    """Return a PNG of one colour."""
    buffer = io.BytesIO()
    Image.new(mode, (width, height), color).save(buffer, "PNG")
    return buffer.getvalue()


def to_base64(content: bytes) -> str:
    """Return bytes as base64 text."""
    return base64.b64encode(content).decode()


async def read_spec(store: redis.asyncio.Redis, response: httpx.Response) -> JobSpec:
    """Return the spec of the job that a response accepts."""
    assert response.status_code == 202, response.text
    text = await store.hget(redis_keys.job(response.json()["id"]), "spec")
    return JobSpec.model_validate_json(text or "")


async def read_input(
    store: redis.asyncio.Redis, response: httpx.Response, name: str
) -> Image.Image:
    """Return an input image of the job that a response accepts."""
    content = await store.get(redis_keys.input_image(response.json()["id"], name))
    assert content is not None
    return Image.open(io.BytesIO(content))


async def test_a_form_with_files_equals_json(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """Numbers and files of a form become what JSON has."""
    image = make_png()
    mask = make_png(color=255, mode="L")
    fields = {"prompt": "7", "n": 2, "seed": 3, "size": 64, "eta": 0.5}
    images = {"image": to_base64(image), "mask": to_base64(mask)}
    from_json = await read_spec(store, await client.post("/edits", json=fields | images))
    files = {"image": ("a.png", image, "image/png"), "mask": ("b.png", mask, "image/png")}
    form = {name: str(value) for name, value in fields.items()}
    from_form = await read_spec(store, await client.post("/edits", data=form, files=files))
    assert from_form.request == from_json.request
    assert from_form.inputs == from_json.inputs == ["image", "mask"]


@pytest.mark.parametrize(
    "form",
    [
        {"labels": ["a cube", "[b]"], "components": ["1", "2"], "seed": "1"},
        {"labels": '["a cube", "[b]"]', "components": "[1, 2]", "seed": "1"},
    ],
)
async def test_a_form_with_lists_equals_json(
    client: httpx.AsyncClient, store: redis.asyncio.Redis, form: dict[str, Any]
) -> None:
    """A list is a repeated field or one JSON array."""
    image = make_png()
    body = {"labels": ["a cube", "[b]"], "components": [1, 2], "seed": 1}
    body |= {"image": to_base64(image)}
    from_json = await read_spec(store, await client.post("/probe", json=body))
    response = await client.post("/probe", data=form, files={"image": image})
    assert (await read_spec(store, response)).request == from_json.request


async def test_a_repeated_image_is_rejected(client: httpx.AsyncClient) -> None:
    """A field that is not a list comes once."""
    files = [("image", make_png()), ("image", make_png(4, 4))]
    response = await client.post("/variations", files=files)
    assert response.status_code == 422
    assert response.json()["errors"][0]["message"] == "it came 2 times; send it once"


async def test_input_images_are_stored_by_name(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """They are PNG files of their own, without expiry, and the record has their names."""
    image = "data:image/png;base64," + to_base64(make_png(4, 2))
    body = {"mix": [{"prompt": "a"}, {"image": image, "weight": 2}]}
    response = await client.post("/generate", json=body)
    spec = await read_spec(store, response)
    assert spec.inputs == ["mix_1"]
    assert spec.request.to_dict()["mix"][1]["image"] == "mix_1"  # type: ignore[index]
    assert (await read_input(store, response, "mix_1")).size == (2, 2)
    assert await store.ttl(redis_keys.input_image(response.json()["id"], "mix_1")) == -1


async def test_an_image_of_an_earlier_job_is_copied(
    client: httpx.AsyncClient, store: redis.asyncio.Redis, redis_server: RedisServer
) -> None:
    """The earlier job may expire before the new one runs."""
    earlier = await submit(client)
    png = make_png(color=(0, 0, 255))
    images = [ImageInfo(seed=1, width=8, height=8)]
    await as_worker(redis_server, earlier, lambda jobs: jobs.succeed([png], images, [], FINISHED))
    response = await client.post("/variations", json={"image": {"job": earlier}})
    await read_spec(store, response)
    assert (await read_input(store, response, "image")).getpixel((0, 0)) == (0, 0, 255)
    missing = await client.post("/variations", json={"image": {"job": earlier, "index": 1}})
    assert missing.status_code == 422
    assert f"no image 1 of a job '{earlier}'" in missing.json()["detail"]


async def test_a_transparent_image_is_its_own_mask(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """The mask is white where the image is transparent."""
    image = make_png(color=(255, 0, 0, 0), mode="RGBA")
    response = await client.post("/edits", json={"prompt": "a", "image": to_base64(image)})
    assert (await read_spec(store, response)).inputs == ["image", "mask"]
    mask = await read_input(store, response, "mask")
    assert mask.mode == "L"
    assert mask.getpixel((0, 0)) == 255


async def test_an_opaque_image_needs_a_mask(client: httpx.AsyncClient) -> None:
    """The problem says so."""
    response = await client.post("/edits", json={"prompt": "a", "image": to_base64(make_png())})
    assert response.status_code == 422
    assert "send a mask" in response.json()["detail"]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/variations", {"image": "???"}, "image: it is not base64"),
        ("/variations", {"image": to_base64(b"hello")}, "image: it is not an image"),
        ("/variations", {"image": to_base64(make_png()[:50])}, "image: it"),
        ("/variations", {"image": 5}, "image"),
        ("/variations", {}, "image: It is required"),
        (
            "/edits",
            {"prompt": "a", "image": to_base64(make_png()), "mask": to_base64(make_png(4, 4))},
            "it is 4×4 and the image 8×8",
        ),
        (
            "/interpolate",
            {"image_a": to_base64(make_png()), "prompt_b": "b", "prompt_a": "a"},
            "exactly one of image_a, prompt_a",
        ),
        ("/embeddings", {}, "exactly one of prompt, image"),
        ("/probe", {"image": to_base64(make_png())}, "give labels, components, or both"),
    ],
)
async def test_an_invalid_request_queues_nothing(
    client: httpx.AsyncClient,
    store: redis.asyncio.Redis,
    path: str,
    body: dict[str, Any],
    message: str,
) -> None:
    """The problem has field and reason, and no image stays in Redis."""
    response = await client.post(path, json=body)
    assert response.status_code == 422, response.text
    assert message in response.json()["detail"]
    assert await store.llen(redis_keys.QUEUE_LIST) == 0
    assert not await store.keys("*input*")


async def test_a_broken_form_is_400(alone: httpx.AsyncClient) -> None:
    """The problem says what to send."""
    response = await alone.post(
        "/variations", content=b"--x\r\nbad", headers={"content-type": "multipart/form-data"}
    )
    assert response.status_code == 400
    assert "form" in response.json()["detail"]


async def test_a_form_for_a_route_without_files_is_415(alone: httpx.AsyncClient) -> None:
    """/generate reads JSON only."""
    response = await alone.post("/generate", data={"prompt": "a"}, files={"image": make_png()})
    assert response.status_code == 415


async def test_a_large_body_is_413(alone: httpx.AsyncClient) -> None:
    """Routes without images have the lower limit."""
    response = await alone.post(
        "/gallery/images", content=b"x" * (2 << 20), headers={"content-type": "application/json"}
    )
    assert response.status_code == 413


async def test_images_are_part_of_an_idempotent_request(client: httpx.AsyncClient) -> None:
    """The same key with another image is rejected."""
    key = {"idempotency-key": "k"}
    red = {"image": to_base64(make_png())}
    blue = {"image": to_base64(make_png(color=(0, 0, 9)))}
    first = await client.post("/variations", json=red, headers=key)
    repeat = await client.post("/variations", json=red, headers=key)
    assert first.json()["id"] == repeat.json()["id"]
    assert (await client.post("/variations", json=blue, headers=key)).status_code == 422


@pytest.mark.parametrize(
    ("path", "body"),
    [("/embeddings", {"prompt": "a"}), ("/interpolate", {"prompt_a": "a", "prompt_b": "b"})],
)
async def test_an_image_response_needs_one_image(
    client: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    """Frames are several images, an embedding is none."""
    headers = {"accept": "image/png", "prefer": "wait=1"}
    assert (await client.post(path, json=body, headers=headers)).status_code == 406


async def test_an_animation_is_served(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """It has its own media type, and is 404 before it exists."""
    body = {"prompt_a": "a", "prompt_b": "b", "animation": "apng"}
    job_id = (await client.post("/interpolate", json=body)).json()["id"]
    path = f"/jobs/{job_id}/animation"
    assert (await client.get(path)).status_code == 404
    outcome = encode_fields(outcome=JobOutcome(animation="apng"))
    await store.hset(redis_keys.job(job_id), mapping=outcome)
    await store.set(redis_keys.animation(job_id), b"frames")
    response = await client.get(path)
    assert response.headers["content-type"] == "image/apng"
    assert response.content == b"frames"
    job = (await client.get(f"/jobs/{job_id}")).json()
    assert job["animation"] == {"format": "apng", "url": f"http://service.test{path}"}
