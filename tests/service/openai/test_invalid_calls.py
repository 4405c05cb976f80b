"""Invalid fields and images: errors of OpenAI's client with `param` and `code`."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from support.service.openai_service import PROMPT, ServiceUnderTest, input_png

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("fields", "param", "code", "message"),
    [
        ({"prompt": ""}, "prompt", "empty_string", "at least 1 character"),
        (
            {"prompt": "x" * 1001},
            "prompt",
            "string_above_max_length",
            "at most 1000 characters",
        ),
        ({"prompt": "  "}, "prompt", "invalid_value", "must not be blank"),
        ({"n": 11}, "n", "integer_above_max_value", "less than or equal to 10"),
        ({"n": 0}, "n", "integer_below_min_value", "greater than or equal to 1"),
        ({"n": "2"}, "n", "invalid_type", "valid integer"),
        (
            {"size": "1792x1024"},
            "size",
            "invalid_value",
            "'256x256', '512x512', '1024x1024' or 'auto' (got '1792x1024')",
        ),
        ({"response_format": "png"}, "response_format", "invalid_value", "'url' or 'b64_json'"),
        ({"background": "transparent"}, "background", "invalid_value", "'auto' or 'opaque'"),
        ({"output_format": "svg"}, "output_format", "invalid_value", "'png', 'webp' or 'jpeg'"),
        (
            {"output_format": "webp", "response_format": "url"},
            "output_format",
            "invalid_value",
            "use response_format b64_json",
        ),
        (
            {"output_compression": 50},
            "output_compression",
            "invalid_value",
            "use output_format webp or jpeg",
        ),
        ({"frame_count": 3}, "frame_count", "unknown_parameter", "There is no such field"),
        ({"stream": True, "n": 2}, "stream", "invalid_value", "use n 1"),
        (
            {"stream": True, "response_format": "url"},
            "stream",
            "invalid_value",
            "omit response_format",
        ),
        (
            {"stream": True, "partial_images": 4},
            "partial_images",
            "integer_above_max_value",
            "less than or equal to 3",
        ),
        ({"partial_images": 1}, "partial_images", "invalid_value", "use stream true"),
        ({"extra_body": {"steps": 3}}, "steps", "unknown_parameter", "There is no such field"),
        ({"extra_body": {"seed": 2**32 - 1}, "n": 2}, "n", "invalid_value", "4294967295"),
    ],
)
def test_an_invalid_field_is_400(
    without_redis: ServiceUnderTest,
    fields: dict[str, Any],
    param: str,
    code: str,
    message: str,
) -> None:
    """Not 422. `param` names the field, and `code` is for programs."""
    with pytest.raises(openai.BadRequestError) as error_info:
        without_redis.client.images.generate(**{"prompt": PROMPT, **fields})
    error = error_info.value
    assert error.param == param
    assert error.code == code
    assert error.type == "invalid_request_error"
    assert message in error.message
    assert set(error.body) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("fields", "param", "code", "message"),
    [
        (
            {"image": b"no image", "mask": input_png(64, hole=True)},
            "image",
            "invalid_image",
            "PNG, JPEG",
        ),
        (
            {"image": input_png((64, 32), hole=True)},
            "image",
            "invalid_image",
            "it is 64×32; send a square image",
        ),
        (
            {"image": input_png(64)},
            "mask",
            "invalid_image",
            "no part of the image is transparent",
        ),
        (
            {"image": input_png(64), "mask": input_png(32, hole=True)},
            "mask",
            "invalid_image",
            "it is 32×32 and the image 64×64",
        ),
        (
            {"image": input_png(64), "mask": input_png(64)},
            "mask",
            "invalid_image",
            "no part of it is transparent",
        ),
        (
            {"image": input_png(64), "mask": input_png(64, mode="L", fill="white")},
            "mask",
            "invalid_image",
            "no part of it is transparent",
        ),
        (
            {"image": [input_png(64), input_png(64)]},
            "image",
            "invalid_image",
            "there are 2 files; send one",
        ),
        (
            {"image": input_png(64, hole=True), "markup": input_png(64)},
            "markup",
            "unknown_parameter",
            "there is no such file; send image, mask",
        ),
        ({"image": []}, "image", "missing_required_parameter", "It is required"),
        (
            {"image": input_png(64, hole=True), "n": 11},
            "n",
            "integer_above_max_value",
            "less than or equal to 10",
        ),
    ],
)
def test_an_invalid_image_of_an_edit_is_400(
    without_redis: ServiceUnderTest,
    fields: dict[str, Any],
    param: str,
    code: str,
    message: str,
) -> None:
    """Images are square, of one size, and transparent in some part, as with DALL·E 2."""
    with pytest.raises(openai.BadRequestError) as error_info:
        without_redis.client.images.edit(prompt=PROMPT, **fields)
    assert error_info.value.param == param
    assert error_info.value.code == code
    assert message in error_info.value.message


@pytest.mark.parametrize(
    ("image", "message"), [(b"no image", "PNG, JPEG"), (input_png((64, 32)), "it is 64×32")]
)
def test_an_invalid_image_of_a_variation_is_400(
    without_redis: ServiceUnderTest, image: bytes, message: str
) -> None:
    """By the same checks."""
    with pytest.raises(openai.BadRequestError, match=message):
        without_redis.client.images.create_variation(image=image)


@pytest.mark.parametrize(
    ("path", "arguments", "message"),
    [
        ("generations", {"content": b"{", "headers": JSON}, "not JSON"),
        ("generations", {"json": []}, "body"),
        ("generations", {"data": {"prompt": "a"}}, "send application/json"),
        ("generations", {"json": {}}, "prompt: It is required"),
        ("generations", {"content": rb'{"prompt": "\ud800"}', "headers": JSON}, "prompt"),
        ("variations", {"json": {"image": "aa"}}, "send multipart/form-data"),
        ("variations", {"files": {"image": (None, "aa")}}, "send it as a file"),
        (
            "edits",
            {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
            "could not be read",
        ),
    ],
)
def test_an_unreadable_body_is_400(
    without_redis: ServiceUnderTest, path: str, arguments: dict[str, Any], message: str
) -> None:
    """In OpenAI's form."""
    answer = httpx.post(f"{without_redis.url}/v1/images/{path}", **arguments)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert message in answer.json()["error"]["message"]
