"""Whatever a client does wrong is answered as a problem that says what, the value got, and what would do. No Redis is asked."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.anyio


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The problem of an answer, checked against RFC 9457."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["type"] == "about:blank"
    assert body["title"]
    assert body["detail"]
    assert "Traceback" not in answer.text
    return body


@pytest.mark.parametrize(
    ("fields", "field", "got", "message"),
    [
        ({"guidance": 3}, "guidance", "3", "There is no such field"),
        ({"n": "3"}, "n", "'3'", "valid integer"),
        ({"n": 0}, "n", "0", "greater than or equal to 1"),
        ({"n": None}, "n", "None", "valid integer"),
        ({"size": 100}, "size", "100", "64, 256 or 1024"),
        ({"prompt": ""}, "prompt", "''", "at least 1 character"),
        ({"prompt": "  "}, "prompt", "'  '", "it is blank: say what the image shows"),
        ({"prompt": "a\0"}, "prompt", "'a\\x00'", "leave it out"),
        ({"prompt": ["a"]}, "prompt", "['a']", "valid string"),
        ({"prompt": "x" * 1001}, "prompt", "'" + "x" * 199 + "…", "at most 1000 characters"),
        ({"seed": 2**32}, "seed", "4294967296", "less than or equal to 4294967295"),
        ({"seed": 2**32 - 1, "n": 2}, "n", "2", "with seed 4294967295, take 1 or less"),
        ({"sampler": "euler"}, "sampler", "'euler'", "'ddpm', 'ddim', 'dpm++', 'unipc' or 'heun'"),
        ({"eta": "NaN"}, "eta", "'NaN'", "valid number"),
    ],
)
async def test_a_field_that_will_not_do_is_named(
    alone: httpx.AsyncClient, fields: dict[str, Any], field: str, got: str, message: str
) -> None:
    """422, with the field, the value got (shortened) and what would do, in `errors` and in `detail`."""
    body = problem(await alone.post("/generate", json={"prompt": "a red cube", **fields}), 422)
    (error,) = body["errors"]
    assert error["field"] == field
    assert error["got"] == got
    assert message in error["message"]
    assert field in body["detail"]
    assert message in body["detail"]


@pytest.mark.parametrize(
    ("path", "body", "field", "message"),
    [
        (
            "/generate",
            {"prompt": "a", "decoder_guidance_start": 0.8, "decoder_guidance_stop": 0.2},
            "body",
            "the start comes first",
        ),
        (
            "/edits",
            {"prompt": "a", "image": "aa", "sampler": "heun"},
            "sampler",
            "take 'ddpm' or 'ddim'",
        ),
        (
            "/text-diff",
            {"prompt_from": "a", "prompt_to": "a", "image": "aa"},
            "body",
            "are the same",
        ),
        ("/variations", {"image": ""}, "image", "it is empty"),
        ("/generate", {"mix": [{"image": "!!!"}]}, "mix.0.image", "not base64"),
        (
            "/generate",
            {"mix": [{"image": {"job": "a", "index": -1}}]},
            "mix.0.image.index",
            "greater than or equal to 0",
        ),
    ],
)
async def test_what_contradicts_itself_is_refused_at_once(
    alone: httpx.AsyncClient, path: str, body: dict[str, Any], field: str, message: str
) -> None:
    """And the field is called as it was sent."""
    told = problem(await alone.post(path, json=body), 422)
    assert [message in error["message"] for error in told["errors"] if error["field"] == field] == [
        True
    ]


async def test_a_whole_request_is_not_sent_back(alone: httpx.AsyncClient) -> None:
    """Of one that lacks something the names are told, and no image."""
    (error,) = problem(await alone.post("/interpolate", json={"image_a": "iVBORw0KGgo="}), 422)[
        "errors"
    ]
    assert error["got"] == "the fields image_a"


async def test_all_faults_of_a_request_are_told(alone: httpx.AsyncClient) -> None:
    """Among them what is missing."""
    body = problem(await alone.post("/edits", json={"n": 11, "stepz": 1, "image": "aa"}), 422)
    assert {error["field"]: error["got"] for error in body["errors"]} == {
        "prompt": None,
        "n": "11",
        "stepz": "1",
    }


@pytest.mark.parametrize("content", [b"[]", b'"a red cube"', b"null", b"3"])
async def test_json_that_is_no_object_is_refused(alone: httpx.AsyncClient, content: bytes) -> None:
    """422 at the body as a whole."""
    body = problem(
        await alone.post(
            "/generate", content=content, headers={"content-type": "application/json"}
        ),
        422,
    )
    assert [(error["field"], error["message"]) for error in body["errors"]] == [
        ("body", "Send one JSON object")
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"prompt": "a",}',
        b"prompt=a",
        b'{"prompt": "\xff"}',
        b"\x00",
        b"[" * 100_000,
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
    ],
    ids=["empty", "cut", "comma", "form", "latin-1", "nul", "deep", "long-number"],
)
async def test_what_is_not_json_is_400(alone: httpx.AsyncClient, content: bytes) -> None:
    """However broken, and with a word about where or what."""
    body = problem(
        await alone.post(
            "/generate", content=content, headers={"content-type": "application/json"}
        ),
        400,
    )
    assert "JSON" in body["detail"]


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (rb'{"prompt": "\ud800"}', "prompt"),
        (rb'{"prompt": "a", "\ud800": 1}', "body"),
        (rb'{"prompt": "a", "eta": NaN}', "eta"),
        (rb'{"prompt": "a", "decoder_guidance_scale": Infinity}', "decoder_guidance_scale"),
        (rb'{"prompt": "a", "seed": 1e400}', "seed"),
        (rb'{"prompt": "a", "seed": 99999999999999999999}', "seed"),
    ],
)
async def test_what_json_lets_through_and_we_cannot_carry_is_422(
    alone: httpx.AsyncClient, content: bytes, field: str
) -> None:
    """Half characters and numbers that are none, told in an answer that is valid JSON itself."""
    body = problem(
        await alone.post(
            "/generate", content=content, headers={"content-type": "application/json"}
        ),
        422,
    )
    assert [error["field"] for error in body["errors"]] == [field]


@pytest.mark.parametrize(
    "path", ["/nothing", "/jobs/x/images", "/jobs/x/images/0.jpg", "/generate/x"]
)
async def test_where_nothing_is_is_404(alone: httpx.AsyncClient, path: str) -> None:
    """With the path."""
    assert path in problem(await alone.get(path), 404)["detail"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/generate", "POST"), ("POST", "/jobs/x", "GET"), ("PUT", "/healthz", "GET")],
)
async def test_a_method_that_is_not_there_is_405(
    alone: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    """With the one that is, in the header and in words."""
    answer = await alone.request(method, path)
    assert allowed in problem(answer, 405)["detail"]
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    "path",
    [
        "/jobs/x/images/-1.png",
        "/jobs/x/images/32.png",
        "/jobs/x/images/one.png",
        "/jobs/" + "x" * 101,
    ],
)
async def test_a_path_that_cannot_be_is_422(alone: httpx.AsyncClient, path: str) -> None:
    """An image's index is 0 to 31."""
    assert problem(await alone.get(path), 422)["errors"][0]["field"].startswith("path.")


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_an_idempotency_key_that_will_not_do_is_422(
    alone: httpx.AsyncClient, key: str
) -> None:
    """One to 255 characters."""
    body = problem(
        await alone.post("/generate", json={"prompt": "a"}, headers={"idempotency-key": key}), 422
    )
    assert "idempotency-key" in body["errors"][0]["field"].lower()
