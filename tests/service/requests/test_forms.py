"""Forms as browsers and older clients send them."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import pytest
from PIL import Image

pytestmark = pytest.mark.anyio
BOUNDARY = "5d0f3e"
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


def make_png(mode: str = "RGB", color: Any = (255, 0, 0)) -> bytes:
    """Return a square of one colour as a file."""
    buffer = io.BytesIO()
    Image.new(mode, (8, 8), color).save(buffer, "PNG")
    return buffer.getvalue()


def part(disposition: str, content: bytes) -> bytes:
    """Return one part of a form."""
    head = f"--{BOUNDARY}\r\ncontent-disposition: form-data; {disposition}\r\n\r\n"
    return head.encode() + content + b"\r\n"


@pytest.mark.parametrize(
    "name",
    [
        "filename*=UTF-8''%E7%94%BB.png",
        "FileName*=UTF-8''a.png",
        "filename=a.png; filename*=UTF-8''%E7%94%BB.png",
        "filename*=UTF-8''%E7%94%BB.png; filename=a.png",
        'filename="a.png"',
    ],
)
async def test_a_part_with_a_file_name_is_a_file(client: httpx.AsyncClient, name: str) -> None:
    """Also if it has the extended form of the parameter only."""
    body = part(f'name="image"; {name}', make_png()) + part('name="n"', b"1")
    body += f"--{BOUNDARY}--\r\n".encode()
    answer = await client.post("/variations", content=body, headers=FORM)
    assert answer.status_code == 202
    # This API reads files before fields, and rejects an image that is text.
    body = body.replace(b'name="n"\r\n\r\n1', b'name="size"\r\n\r\nhuge')
    answer = await client.post("/v1/images/variations", content=body, headers=FORM)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "size"


async def test_empty_fields_count_as_absent(client: httpx.AsyncClient) -> None:
    """A browser sends each input of a form, also for a file that was not chosen."""
    transparent = make_png("RGBA", (0, 0, 0, 0))
    files = {
        "image": ("a.png", transparent, "image/png"),
        "mask": ("", b"", "application/octet-stream"),
    }
    data = {"prompt": "a", "seed": "", "size": "", "negative_prompt": "", "webhook": ""}
    answer = await client.post("/edits", data=data, files=files)
    assert answer.status_code == 202
    assert answer.json()["parameters"]["prompt"] == "a"


async def test_an_empty_required_field_is_missing(client: httpx.AsyncClient) -> None:
    """It is reported as such; an empty file with a name is an empty file."""
    files = {"image": ("a.png", b"", "image/png")}
    answer = await client.post("/edits", data={"prompt": ""}, files=files)
    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {"field": "prompt", "message": "It is required", "got": None}
    ]
    answer = await client.post("/edits", data={"prompt": "a"}, files=files)
    assert answer.json()["detail"].startswith("image: it is empty")


async def test_long_json_in_a_field_is_not_parsed(client: httpx.AsyncClient) -> None:
    """It could stop all other requests."""
    image = base64.b64encode(make_png()).decode()
    data = {"image": image, "labels": "a", "components": "[" + "1," * 60_000 + "1]"}
    answer = await client.post("/probe", data=data, files={"mask": ("", b"")})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].startswith("components")
