"""OpenAI's own client against /v1, with nothing changed but the address."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import numpy as np
import pytest
from openai import OpenAI
from PIL import Image
from support.deployment import DeploymentUnderTest
from support.images import load_png

from devtools.wait import TIMEOUT_S


@pytest.fixture(scope="module")
def openai(deployment: DeploymentUnderTest) -> Iterator[OpenAI]:
    """Return OpenAI's client of the deployment."""
    url = f"{deployment.url}/v1"
    with OpenAI(base_url=url, api_key="any", max_retries=0, timeout=TIMEOUT_S) as client:
        yield client


@pytest.fixture(scope="module")
def images(openai: OpenAI, deployment: DeploymentUnderTest) -> list[bytes]:
    """Generate two images by the name of OpenAI's model, and return their files."""
    response = openai.images.generate(
        model="dall-e-2", prompt="a red cube", n=2, size="256x256", user="somebody"
    )
    assert response.data is not None
    return [deployment.http.get(str(image.url)).content for image in response.data]


def test_generate(images: list[bytes]) -> None:
    """Two different images of the requested size."""
    assert [load_png(content).size for content in images] == [(256, 256)] * 2
    assert images[0] != images[1]


def test_variation(openai: OpenAI, images: list[bytes]) -> None:
    """A variation comes back as base64."""
    response = openai.images.create_variation(
        image=images[0], size="256x256", response_format="b64_json"
    )
    assert load_png(base64.b64decode(response.data[0].b64_json)).size == (256, 256)


def test_edit(openai: OpenAI, images: list[bytes]) -> None:
    """Only the part changes where the mask is transparent; the checkpoint's name is a model."""
    image = load_png(images[0])
    mask = Image.new("RGBA", image.size, "black")
    mask.paste((0, 0, 0, 0), (0, 0, 128, 256))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    response = openai.images.edit(
        model="tiny",
        image=images[0],
        mask=buffer.getvalue(),
        prompt="a blue cone",
        size="256x256",
        response_format="b64_json",
    )
    before = np.asarray(image)
    after = np.asarray(load_png(base64.b64decode(response.data[0].b64_json)))
    assert (before[:, 128:] == after[:, 128:]).all()
    assert (before[:, :128] != after[:, :128]).any()


def test_stream(openai: OpenAI) -> None:
    """Partial images may come first; the last event is the image."""
    stream = openai.images.generate(
        model="tiny", prompt="a cone", size="auto", stream=True, partial_images=3
    )
    events = list(stream)
    assert events[-1].type == "image_generation.completed"
    assert len(events) <= 4
    assert load_png(base64.b64decode(events[-1].b64_json)).size == (256, 256)


def test_models(openai: OpenAI) -> None:
    """The checkpoint's name and OpenAI's are listed."""
    assert {model.id for model in openai.models.list()} == {"dall-e-2", "tiny"}
