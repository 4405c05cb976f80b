"""images.edit and images.create_variation of OpenAI's client."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from support.service.openai_service import PROMPT, ServiceUnderTest, input_png, load_image

from contracts import redis_keys


def test_an_image_is_varied(service: ServiceUnderTest) -> None:
    """The worker receives the file."""
    inputs: list[bytes] = []

    def work(job_id: str) -> None:
        inputs.append(service.redis.get(redis_keys.input_image(job_id, "image")))
        service.generate(job_id)

    answer, job_id = service.call(
        lambda: service.client.images.create_variation(
            image=input_png(64, mode="RGB"), n=3, size="256x256", user="me"
        ),
        work,
    )
    assert len(answer.data) == 3
    assert load_image(httpx.get(answer.data[2].url).content).size == (256, 256)
    assert load_image(inputs[0]).getpixel((0, 0)) == (255, 0, 0)
    assert service.request(job_id)["n"] == 3


@pytest.mark.parametrize(
    "files",
    [
        {"image": input_png(64), "mask": input_png(64, hole=True, fill="black")},
        {"image": input_png(64, hole=True)},
        {"image": [("a.png", input_png(64))], "mask": ("mask.png", input_png(64, hole=True))},
    ],
    ids=["mask", "image", "list"],
)
def test_the_transparent_part_is_repainted(
    service: ServiceUnderTest, files: dict[str, Any]
) -> None:
    """Of the mask or of the image, whatever its colour."""
    masks: list[bytes] = []

    def work(job_id: str) -> None:
        masks.append(service.redis.get(redis_keys.input_image(job_id, "mask")))
        service.generate(job_id)

    answer, job_id = service.call(
        lambda: service.client.images.edit(
            prompt=PROMPT,
            size="256x256",
            response_format="b64_json",
            input_fidelity="high",
            **files,
        ),
        work,
    )
    assert load_image(answer.data[0].b64_json).size == (256, 256)
    assert service.request(job_id)["prompt"] == PROMPT
    mask = load_image(masks[0])
    assert mask.mode == "L"
    assert mask.getpixel((0, 0)) == 255
    assert mask.getpixel((63, 63)) == 0
