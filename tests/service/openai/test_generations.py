"""images.generate of OpenAI's client."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import httpx
import openai
from support.service.openai_service import (
    PROMPT,
    TIMEOUT_S,
    ServiceUnderTest,
    generated_png,
    load_image,
)


def test_images_are_urls_by_default(service: ServiceUnderTest) -> None:
    """As with DALL·E 2. The request's id is in the job, and `user` is not stored."""
    answer, job_id = service.call(
        lambda: service.client.images.generate(
            model="dall-e-2", prompt=PROMPT, n=2, size="256x256", user="somebody"
        )
    )
    assert answer._request_id == service.record(job_id).spec.request_id
    assert abs(answer.created - time.time()) < TIMEOUT_S
    assert answer.size == "256x256"
    assert [image.url for image in answer.data] == [
        f"{service.url}/jobs/{job_id}/images/{index}.png" for index in (0, 1)
    ]
    assert [image.b64_json for image in answer.data] == [None, None]
    request = service.request(job_id)
    for index, image in enumerate(answer.data):
        assert httpx.get(image.url).content == generated_png(256, request["seed"] + index)
    assert request["prompt"] == PROMPT
    assert "somebody" not in json.dumps(request)


def test_images_can_be_base64(service: ServiceUnderTest) -> None:
    """At the default size of 1024x1024; a seed is an extension."""
    answer, _ = service.call(
        lambda: service.client.images.generate(
            prompt=PROMPT, response_format="b64_json", extra_body={"seed": 7}
        )
    )
    assert base64.b64decode(answer.data[0].b64_json) == generated_png(1024, 7)


def test_512_is_generated_at_1024_and_reduced(service: ServiceUnderTest) -> None:
    """The image says so, and its URL without the query leads to the generated one."""
    answer, job_id = service.call(
        lambda: service.client.images.generate(
            prompt=PROMPT, size="512x512", extra_body={"seed": 7}
        )
    )
    assert service.request(job_id)["size"] == 1024
    assert answer.size == "512x512"
    url = answer.data[0].url
    image = load_image(httpx.get(url).content)
    assert image.size == (512, 512)
    assert image.text == {"unclip": '{"seed": 7}', "reduced_to": "512"}
    assert httpx.get(url.partition("?")[0]).content == generated_png(1024, 7)


def test_a_reduced_image_is_the_same_as_url_and_base64(service: ServiceUnderTest) -> None:
    """Byte for byte."""

    def generate(response_format: Any) -> Any:
        answer, _ = service.call(
            lambda: service.client.images.generate(
                prompt=PROMPT,
                size="512x512",
                response_format=response_format,
                extra_body={"seed": 7},
            )
        )
        return answer.data[0]

    content = httpx.get(generate("url").url).content
    assert base64.b64decode(generate("b64_json").b64_json) == content


def test_auto_is_the_size_of_the_checkpoint(service: ServiceUnderTest) -> None:
    """The response reports it."""
    answer, job_id = service.call(
        lambda: service.client.images.generate(prompt=PROMPT, size="auto")
    )
    assert service.request(job_id)["size"] is None
    assert answer.size == "64x64"


def test_fields_of_the_gpt_image_models_are_accepted(service: ServiceUnderTest) -> None:
    """Formats and compression are followed, hints have no effect."""

    def generate(quality: int) -> bytes:
        answer, _ = service.call(
            lambda: service.client.images.generate(
                prompt=PROMPT,
                size="256x256",
                output_format="jpeg",
                output_compression=quality,
                quality="high",
                style="vivid",
                background="opaque",
                moderation="low",
                safety_identifier="somebody",
                n=None,
            )
        )
        return base64.b64decode(answer.data[0].b64_json)

    good = generate(95)
    poor = generate(5)
    assert load_image(good).format == "JPEG"
    assert load_image(poor).format == "JPEG"
    assert len(good) > 2 * len(poor)


def test_an_output_format_implies_base64(service: ServiceUnderTest) -> None:
    """The GPT image models know no URLs."""
    answer, _ = service.call(
        lambda: service.client.images.generate(prompt=PROMPT, output_format="webp")
    )
    assert load_image(answer.data[0].b64_json).format == "WEBP"
    assert answer.output_format == "webp"


def test_the_asynchronous_client_works_too(service: ServiceUnderTest) -> None:
    """It sends the same requests."""

    async def generate() -> Any:
        async with openai.AsyncOpenAI(
            base_url=f"{service.url}/v1", api_key="none", max_retries=0
        ) as client:
            return await client.images.generate(prompt=PROMPT, size="256x256")

    answer, _ = service.call(lambda: asyncio.run(generate()))
    assert len(answer.data) == 1
