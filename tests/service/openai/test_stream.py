"""stream=True of OpenAI's client."""

from __future__ import annotations

import base64
import io
import json
import time
from typing import Any

import openai
import pytest
from PIL import Image
from support.service.openai_service import (
    PROMPT,
    TIMEOUT_S,
    ServiceUnderTest,
    input_png,
    load_image,
)

from contracts import redis_keys
from contracts.jobs import Preview, Progress
from devtools.wait import wait_until

NUM_PREVIEWS = 6


def preview(step: int) -> Preview:
    """Return a preview whose colour shows its step."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (40 * step, 0, 0)).save(buffer, "WEBP", lossless=True)
    content = base64.b64encode(buffer.getvalue()).decode()
    return Preview(index=0, image=f"data:image/webp;base64,{content}")


def publish_previews_and_generate(service: ServiceUnderTest, job_id: str) -> None:
    """Publish previews, then end the job with its images."""
    job = service.job(job_id)
    wait_until(job.is_preview_subscribed)
    job.start({})
    for step in range(1, NUM_PREVIEWS + 1):
        progress = Progress(
            stage="decoder", step=step, steps=NUM_PREVIEWS, fraction=step / NUM_PREVIEWS
        )
        assert job.publish_previews([preview(step)], progress)
    service.generate(job_id)


def stream(service: ServiceUnderTest, **fields: Any) -> list[Any]:
    """Generate an image with a stream, and return its events."""
    return list(service.client.images.generate(prompt=PROMPT, stream=True, **fields))


def test_partial_images_are_spread_over_the_job(service: ServiceUnderTest) -> None:
    """Two of six previews, after a third and two thirds of it, then the final image."""
    events, job_id = service.call(
        lambda: stream(service, size="512x512", partial_images=2, quality="low"),
        lambda job_id: publish_previews_and_generate(service, job_id),
    )
    assert [event.type for event in events] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    images = [load_image(event.b64_json) for event in events]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    assert [image.getpixel((0, 0))[0] for image in images[:2]] == [80, 160]
    seed = service.request(job_id)["seed"]
    assert images[2].text["unclip"] == json.dumps({"seed": seed})
    assert events[2].usage.total_tokens == 0


def test_events_have_the_requested_form(service: ServiceUnderTest) -> None:
    """Size, format and quality, of partial images too."""
    events, _ = service.call(
        lambda: stream(service, size="512x512", partial_images=1, quality="low"),
        lambda job_id: publish_previews_and_generate(service, job_id),
    )
    assert len(events) == 2
    for event in events:
        image = load_image(event.b64_json)
        assert image.size == (512, 512)
        assert image.format == "PNG"
        assert event.size == "512x512"
        assert event.quality == "low"
        assert event.background == "opaque"
        assert event.output_format == "png"
        assert abs(event.created_at - time.time()) < TIMEOUT_S


def test_without_partial_images_no_previews_are_made(service: ServiceUnderTest) -> None:
    """The stream has only the final image."""
    events, job_id = service.call(lambda: stream(service, size="auto", output_format="webp"))
    assert [event.type for event in events] == ["image_generation.completed"]
    assert events[0].size == "64x64"
    assert load_image(events[0].b64_json).format == "WEBP"
    assert not service.redis.exists(redis_keys.preview_subscribed(job_id))


def test_an_edit_has_its_own_event_names(service: ServiceUnderTest) -> None:
    """Booleans and numbers are text in its form."""
    events, _ = service.call(
        lambda: list(
            service.client.images.edit(
                image=input_png(64, hole=True),
                prompt=PROMPT,
                size="256x256",
                stream=True,
                partial_images=1,
            )
        ),
        lambda job_id: publish_previews_and_generate(service, job_id),
    )
    assert [event.type for event in events] == [
        "image_edit.partial_image",
        "image_edit.completed",
    ]


def test_a_failure_is_the_last_event(service: ServiceUnderTest) -> None:
    """The client raises it."""
    with pytest.raises(openai.APIError, match="Generation failed: no memory") as error_info:
        service.call(
            lambda: stream(service),
            lambda job_id: service.job(job_id).fail("internal", "no memory"),
        )
    assert error_info.value.type == "server_error"


def test_an_invalid_field_is_an_error_before_the_stream(without_redis: ServiceUnderTest) -> None:
    """With its status."""
    with pytest.raises(openai.BadRequestError):
        without_redis.client.images.generate(prompt="", stream=True)


def test_a_client_that_stops_reading_cancels_its_job(service: ServiceUnderTest) -> None:
    """While it runs."""
    with service.client.images.generate(prompt=PROMPT, stream=True, partial_images=1):
        job_id = service.next_job()
        service.job(job_id).start({})
    wait_until(lambda: service.status(job_id) == "cancelled")
