"""An image's provenance by its own route: what the PNG holds, wherever that lies."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import torch

from contracts.jobs import ImageInfo, Progress
from contracts.provenance import Provenance
from devtools.redis_server import RedisServer
from infra.object_store import ObjectStore
from worker.jobs.images import png
from worker.jobs.record import JobRepository

pytestmark = pytest.mark.anyio
WHOLE = Progress(stage="decoder", step=6, steps=6, fraction=1.0)
TOLD = {
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


async def ended(
    client: httpx.AsyncClient, server: RedisServer, store: ObjectStore | None, *images: bytes
) -> str:
    """A job that came to these PNGs."""
    job_id = str((await client.post("/generate", json={"prompt": "a"})).json()["id"])

    def work() -> None:
        with redis.Redis.from_url(server.url) as connection:
            record = JobRepository(connection, job_id, 100, store)
            record.start({})
            assert record.succeed(
                images, [ImageInfo(seed=0, width=4, height=4)] * len(images), [], WHOLE
            )

    await asyncio.to_thread(work)
    return job_id


@pytest.mark.parametrize("stored", [False, True])
async def test_an_images_provenance_has_a_route(
    serve: Any, redis_server: RedisServer, tmp_path: Path, stored: bool
) -> None:
    """As it stands in the chunk, the request's own fields among it; documented."""
    url = f"file://{tmp_path}/store" if stored else None
    async with serve(object_store_url=url) as client:
        images = [png(torch.zeros(3, 4, 4), TOLD | {"index": index}) for index in (0, 1)]
        job_id = await ended(client, redis_server, ObjectStore(url) if url else None, *images)
        answer = await client.get(f"/jobs/{job_id}/images/1.json")
        assert answer.status_code == 200
        assert answer.json() == TOLD
        assert Provenance.model_validate(answer.json()).request == {"prompt": TOLD["prompt"]}
        schema = (await client.get("/openapi.json")).json()["components"]["schemas"]["Provenance"]
        assert set(schema["properties"]) == set(TOLD) - {"prompt"}


async def test_an_image_without_one_and_no_image_are_404(
    serve: Any, redis_server: RedisServer
) -> None:
    """With what is the matter."""
    async with serve() as client:
        job_id = await ended(client, redis_server, None, png(torch.zeros(3, 4, 4), {}), b"no PNG")
        waiting = (await client.post("/generate", json={"prompt": "a"})).json()["id"]
        for path, detail in (
            (f"{job_id}/images/0", "does not tell how it was drawn"),
            (f"{job_id}/images/1", "it is no PNG"),
            (f"{job_id}/images/2", "has 2 images; there is none at 2"),
            (f"{waiting}/images/0", "is queued"),
            ("nobody/images/0", "no job 'nobody'"),
        ):
            answer = await client.get(f"/jobs/{path}.json")
            assert answer.status_code == 404 and detail in answer.json()["detail"], answer.text
