"""Bodies with images, as JSON and as a form, through the service to what the worker finds in Redis."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx
import pytest
import redis.asyncio
from PIL import Image

from contracts import redis_keys

pytestmark = pytest.mark.anyio


def png(width: int = 8, height: int = 8, colour: Any = (255, 0, 0), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


async def record(store: redis.asyncio.Redis, answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 202, answer.text
    fields = await store.hgetall(redis_keys.job(answer.json()["id"]))
    return {name: json.loads(fields[name.encode()]) for name in ("request", "inputs")}


async def test_a_form_and_json_say_the_same(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """Numbers, lists and files of a form become what JSON has."""
    image = png()
    mask = png(colour=255, mode="L")
    edit = {"prompt": "7", "n": 2, "seed": 3, "size": 64, "eta": 0.5}
    first = await record(
        store, await client.post("/edits", json=edit | {"image": text(image), "mask": text(mask)})
    )
    files = {"image": ("a.png", image, "image/png"), "mask": ("b.png", mask, "image/png")}
    second = await record(
        store,
        await client.post(
            "/edits", data={key: str(value) for key, value in edit.items()}, files=files
        ),
    )
    assert first == second
    assert first["inputs"] == ["image", "mask"]
    probe = {"labels": ["a cube", "[b]"], "components": [1, 2], "seed": 1}
    first = await record(store, await client.post("/probe", json=probe | {"image": text(image)}))
    await store.flushall()
    form = {"labels": probe["labels"], "components": ["1", "2"], "seed": "1"}
    second = await record(store, await client.post("/probe", data=form, files={"image": image}))
    assert first == second


async def test_an_image_that_comes_twice_is_refused(client: httpx.AsyncClient) -> None:
    """Nobody can say which was meant."""
    answer = await client.post("/variations", files=[("image", png()), ("image", png(4, 4))])
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["message"] == "it came 2 times; send it once"


async def test_images_wait_beside_the_job_and_never_in_it(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """Under the names that the record has, as PNG, without an end until the job has one."""
    body = {
        "mix": [{"prompt": "a"}, {"image": "data:image/png;base64," + text(png(4, 2)), "weight": 2}]
    }
    answer = await client.post("/generate", json=body)
    found = await record(store, answer)
    assert found["inputs"] == ["mix_1"]
    assert found["request"]["mix"][1]["image"] == "mix_1"
    key = redis_keys.input_image(answer.json()["id"], "mix_1")
    assert Image.open(io.BytesIO(await store.get(key))).size == (2, 2)
    assert await store.ttl(key) == -1


async def test_an_image_of_an_earlier_job_is_taken_over(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """Copied, so that the earlier job may go."""
    await store.set(redis_keys.image("old", 1), png(colour=(0, 0, 255)))
    answer = await client.post("/variations", json={"image": {"job": "old", "index": 1}})
    await record(store, answer)
    stored = Image.open(
        io.BytesIO(await store.get(redis_keys.input_image(answer.json()["id"], "image")))
    )
    assert stored.getpixel((0, 0)) == (0, 0, 255)
    missing = await client.post("/variations", json={"image": {"job": "old", "index": 0}})
    assert missing.status_code == 422
    assert "no image 0 of a job 'old'" in missing.json()["detail"]


async def test_a_transparent_image_is_its_own_mask(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """As in OpenAI's edits; one that is whole needs a mask."""
    answer = await client.post(
        "/edits", json={"prompt": "a", "image": text(png(colour=(255, 0, 0, 0), mode="RGBA"))}
    )
    found = await record(store, answer)
    assert found["inputs"] == ["image", "mask"]
    mask = Image.open(
        io.BytesIO(await store.get(redis_keys.input_image(answer.json()["id"], "mask")))
    )
    assert mask.mode == "L"
    assert mask.getpixel((0, 0)) == 255
    whole = await client.post("/edits", json={"prompt": "a", "image": text(png())})
    assert whole.status_code == 422
    assert "send a mask" in whole.json()["detail"]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/variations", {"image": "???"}, "image: it is not base64"),
        ("/variations", {"image": text(b"hello")}, "image: it is no image"),
        ("/variations", {"image": text(png()[:50])}, "image: it"),
        ("/variations", {"image": 5}, "image"),
        ("/variations", {}, "image: It is required"),
        (
            "/edits",
            {"prompt": "a", "image": text(png()), "mask": text(png(4, 4))},
            "it is 4×4 and the image 8×8",
        ),
        (
            "/interpolate",
            {"image_a": text(png()), "prompt_b": "b", "prompt_a": "a"},
            "exactly one of image_a, prompt_a",
        ),
        ("/embeddings", {}, "exactly one of prompt, image"),
        ("/probe", {"image": text(png())}, "nothing is asked"),
    ],
)
async def test_what_does_not_do_is_422_and_nothing_is_queued(
    client: httpx.AsyncClient,
    store: redis.asyncio.Redis,
    path: str,
    body: dict[str, Any],
    message: str,
) -> None:
    """With the field and the reason."""
    answer = await client.post(path, json=body)
    assert answer.status_code == 422 and message in answer.json()["detail"], answer.text
    assert await store.llen(redis_keys.QUEUE_LIST) == 0
    assert not await store.keys("*input*")


async def test_forms_that_cannot_be_read_are_refused(alone: httpx.AsyncClient) -> None:
    """400 for a broken one, 415 where there are no files to send, 413 for a large body on a route without images."""
    broken = await alone.post(
        "/variations", content=b"--x\r\nbad", headers={"content-type": "multipart/form-data"}
    )
    assert broken.status_code == 400
    assert "form" in broken.json()["detail"]
    assert (
        await alone.post("/generate", data={"prompt": "a"}, files={"image": png()})
    ).status_code == 415
    assert (
        await alone.post(
            "/generate", content=b"x" * (2 << 20), headers={"content-type": "application/json"}
        )
    ).status_code == 413


async def test_one_key_for_two_images_is_refused(client: httpx.AsyncClient) -> None:
    """The images are part of the request that an Idempotency-Key stands for."""
    key = {"Idempotency-Key": "k"}
    first = await client.post("/variations", json={"image": text(png())}, headers=key)
    again = await client.post("/variations", json={"image": text(png())}, headers=key)
    assert first.json()["id"] == again.json()["id"]
    assert (
        await client.post("/variations", json={"image": text(png(colour=(0, 0, 9)))}, headers=key)
    ).status_code == 422


async def test_an_image_as_answer_only_where_there_is_one(client: httpx.AsyncClient) -> None:
    """406 beforehand: frames are several, an embedding is none."""
    for path, body in (
        ("/embeddings", {"prompt": "a"}),
        ("/interpolate", {"prompt_a": "a", "prompt_b": "b"}),
    ):
        answer = await client.post(
            path, json=body, headers={"accept": "image/png", "prefer": "wait=1"}
        )
        assert answer.status_code == 406, path


async def test_an_animation_is_served_as_what_it_is(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """And 404 before there is one."""
    job = (
        await client.post(
            "/interpolate", json={"prompt_a": "a", "prompt_b": "b", "animation": "apng"}
        )
    ).json()
    assert (await client.get(f"/jobs/{job['id']}/animation")).status_code == 404
    await store.hset(redis_keys.job(job["id"]), "animation", json.dumps("apng"))
    await store.set(redis_keys.animation(job["id"]), b"frames")
    answer = await client.get(f"/jobs/{job['id']}/animation")
    assert (answer.headers["content-type"], answer.content) == ("image/apng", b"frames")
    told = (await client.get(f"/jobs/{job['id']}")).json()["animation"]
    assert told == {"format": "apng", "url": f"http://house/jobs/{job['id']}/animation"}
