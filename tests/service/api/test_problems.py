"""Invalid requests: each response is a problem with the field, the value and the remedy.

None of these requests needs Redis.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.anyio
JSON = {"content-type": "application/json"}


def parse_problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """Check that a response is a problem of RFC 9457, and return it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == status
    assert problem["type"] == "about:blank"
    assert problem["title"]
    assert problem["detail"]
    assert "Traceback" not in response.text
    return problem


@pytest.mark.parametrize(
    ("fields", "field", "got", "message"),
    [
        ({"guidance": 3}, "guidance", "3", "There is no such field"),
        ({"n": "3"}, "n", "'3'", "valid integer"),
        ({"n": 0}, "n", "0", "greater than or equal to 1"),
        ({"n": None}, "n", "None", "valid integer"),
        ({"size": 100}, "size", "100", "64, 256 or 1024"),
        ({"prompt": ""}, "prompt", "''", "at least 1 character"),
        ({"prompt": "  "}, "prompt", "'  '", "must not be blank"),
        ({"prompt": "a\0"}, "prompt", "'a\\x00'", "must not contain a NUL"),
        ({"prompt": ["a"]}, "prompt", "['a']", "valid string"),
        ({"prompt": "x" * 1001}, "prompt", "'" + "x" * 199 + "…", "at most 1000 characters"),
        ({"seed": 2**32}, "seed", "4294967296", "less than or equal to 4294967295"),
        ({"seed": 2**32 - 1, "n": 2}, "n", "2", "with seed 4294967295, n can be at most 1"),
        ({"sampler": "euler"}, "sampler", "'euler'", "'ddpm', 'ddim', "),
        ({"eta": "NaN"}, "eta", "'NaN'", "valid number"),
    ],
)
async def test_an_invalid_field_is_named(
    alone: httpx.AsyncClient, fields: dict[str, Any], field: str, got: str, message: str
) -> None:
    """The problem has the field, the value, shortened, and the remedy."""
    response = await alone.post("/generate", json={"prompt": "a red cube", **fields})
    problem = parse_problem(response, 422)
    (error,) = problem["errors"]
    assert error["field"] == field
    assert error["got"] == got
    assert message in error["message"]
    assert field in problem["detail"]
    assert message in problem["detail"]


@pytest.mark.parametrize(
    ("path", "body", "field", "message"),
    [
        (
            "/generate",
            {"prompt": "a", "decoder_guidance_start": 0.8, "decoder_guidance_stop": 0.2},
            "body",
            "the start must not exceed the stop",
        ),
        (
            "/edits",
            {"prompt": "a", "image": "aa", "sampler": "heun"},
            "sampler",
            "use 'ddpm' or 'ddim'",
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
async def test_a_contradictory_request_is_rejected(
    alone: httpx.AsyncClient, path: str, body: dict[str, Any], field: str, message: str
) -> None:
    """The problem names the field as the client sent it."""
    problem = parse_problem(await alone.post(path, json=body), 422)
    messages = [error["message"] for error in problem["errors"] if error["field"] == field]
    assert len(messages) == 1
    assert message in messages[0]


async def test_a_whole_request_is_not_sent_back(alone: httpx.AsyncClient) -> None:
    """A problem about the whole request lists its fields and no values, which may be images."""
    response = await alone.post("/interpolate", json={"image_a": "iVBORw0KGgo="})
    (error,) = parse_problem(response, 422)["errors"]
    assert error["got"] == "the fields image_a"


async def test_all_faults_of_a_request_are_reported(alone: httpx.AsyncClient) -> None:
    """The problem lists every invalid, unknown and missing field."""
    response = await alone.post("/edits", json={"n": 11, "stepz": 1, "image": "aa"})
    errors = parse_problem(response, 422)["errors"]
    assert {error["field"]: error["got"] for error in errors} == {
        "prompt": None,
        "n": "11",
        "stepz": "1",
    }


@pytest.mark.parametrize("content", [b"[]", b'"a red cube"', b"null", b"3"])
async def test_json_other_than_an_object_is_rejected(
    alone: httpx.AsyncClient, content: bytes
) -> None:
    """The problem is about the body as a whole."""
    (error,) = parse_problem(await alone.post("/generate", content=content, headers=JSON), 422)[
        "errors"
    ]
    assert error["field"] == "body"
    assert error["message"] == "Send one JSON object"


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
        rb'{"prompt": "\ud800"}',
        rb'{"prompt": "a", "\ud800": 1}',
    ],
    ids=[
        "empty",
        "cut",
        "comma",
        "form",
        "latin-1",
        "nul",
        "deep",
        "long-number",
        "surrogate",
        "surrogate-name",
    ],
)
async def test_a_body_that_is_not_json_is_400(alone: httpx.AsyncClient, content: bytes) -> None:
    """The problem says what is wrong with the JSON."""
    response = await alone.post("/generate", content=content, headers=JSON)
    assert "JSON" in parse_problem(response, 400)["detail"]


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (rb'{"prompt": "a", "eta": NaN}', "eta"),
        (rb'{"prompt": "a", "decoder_guidance_scale": Infinity}', "decoder_guidance_scale"),
        (rb'{"prompt": "a", "seed": 1e400}', "seed"),
        (rb'{"prompt": "a", "seed": 99999999999999999999}', "seed"),
    ],
)
async def test_a_number_outside_of_json_is_422(
    alone: httpx.AsyncClient, content: bytes, field: str
) -> None:
    """The problem names the field, and is valid JSON itself."""
    response = await alone.post("/generate", content=content, headers=JSON)
    (error,) = parse_problem(response, 422)["errors"]
    assert error["field"] == field


@pytest.mark.parametrize(
    "path", ["/nothing", "/jobs/x/images", "/jobs/x/images/0.jpg", "/generate/x"]
)
async def test_an_unknown_path_is_404(alone: httpx.AsyncClient, path: str) -> None:
    """The problem quotes the path."""
    assert path in parse_problem(await alone.get(path), 404)["detail"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/generate", "POST"), ("POST", "/jobs/x", "GET"), ("PUT", "/healthz", "GET")],
)
async def test_an_unknown_method_is_405(
    alone: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    """The allowed method is in the Allow header and in the detail."""
    response = await alone.request(method, path)
    assert allowed in parse_problem(response, 405)["detail"]
    assert response.headers["allow"] == allowed


async def test_a_long_id_is_422(alone: httpx.AsyncClient) -> None:
    """An id has at most 100 characters."""
    (error,) = parse_problem(await alone.get("/jobs/" + "x" * 101), 422)["errors"]
    assert error["field"] == "path.job_id"


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_an_invalid_idempotency_key_is_422(alone: httpx.AsyncClient, key: str) -> None:
    """A key has 1 to 255 characters."""
    response = await alone.post("/generate", json={"prompt": "a"}, headers={"idempotency-key": key})
    (error,) = parse_problem(response, 422)["errors"]
    assert "idempotency-key" in error["field"].lower()
