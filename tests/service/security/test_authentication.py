"""Authentication by API key: which requests need one, and which keys are valid."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest
import redis
from support.service.keys import CUBE, GUARDED, MISSING_ID, OPEN_PATHS, bearer, key_id

from contracts import redis_keys
from contracts.jobs import now
from devtools.redis_server import RedisServer
from service.security import api_keys

pytestmark = pytest.mark.anyio


async def test_keys_are_optional_by_default(client: httpx.AsyncClient) -> None:
    """A key is then ignored, and the OpenAPI document mentions none."""
    answer = await client.post("/generate", json=CUBE, headers={"authorization": "Bearer x"})
    assert answer.status_code == 202
    document = (await client.get("/openapi.json")).json()
    assert "securitySchemes" not in document["components"]
    assert "401" not in document["paths"]["/jobs"]["get"]["responses"]


@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_guarded_routes_need_a_key(
    guarded: httpx.AsyncClient, connection: redis.Redis, method: str, path: str
) -> None:
    """Without one the response is a problem with a challenge, and nothing is queued."""
    body = CUBE if method == "POST" else None
    answer = await guarded.request(method, path.format(id=MISSING_ID), json=body)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="unclip"'
    assert answer.headers["content-type"] == "application/problem+json"
    assert "Authorization: Bearer" in answer.json()["detail"]
    assert connection.llen(redis_keys.QUEUE_LIST) == 0
    assert connection.keys("unclip:job*") == []


@pytest.mark.parametrize("path", OPEN_PATHS)
async def test_open_routes_need_no_key(guarded: httpx.AsyncClient, path: str) -> None:
    """Probes and documentation."""
    answer = await guarded.get(path)
    assert answer.status_code in (200, 307)


async def test_the_document_describes_every_guarded_route(guarded: httpx.AsyncClient) -> None:
    """With its schemes, and with 401 and 429 in the form of the route."""
    document = (await guarded.get("/openapi.json")).json()
    schemes = set(document["components"]["securitySchemes"])
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    openai = {"application/json": {"schema": {"$ref": "#/components/schemas/OpenAIErrorBody"}}}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path in (*OPEN_PATHS, "/readyz"):
                assert "security" not in operation
                assert "401" not in operation["responses"]
                continue
            assert {name for entry in operation["security"] for name in entry} == schemes
            form = openai if path.startswith("/v1/") else problem
            assert operation["responses"]["401"]["content"] == form
            assert operation["responses"]["429"]["content"] == form


async def test_openai_calls_are_rejected_in_their_form(
    guarded: httpx.AsyncClient, connection: redis.Redis
) -> None:
    """The keys are the same."""
    answer = await guarded.post("/v1/images/generations", json={"prompt": "a red cube"})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    models = await guarded.get("/v1/models", headers=bearer(connection))
    assert models.json()["data"][0]["id"] == "dall-e-2"


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "bearer {token}"},
        {"x-api-key": "{token}"},
        {"x-api-key": "{token}", "authorization": "Basic YTpi"},
        {"x-api-key": "{token}", "authorization": "Bearer a.proxy's.own"},
        {"x-api-key": "another", "authorization": "Bearer {token}"},
    ],
)
async def test_either_header_carries_the_key(
    guarded: httpx.AsyncClient, connection: redis.Redis, headers: dict[str, str]
) -> None:
    """Bearer in any case, or X-API-Key if a proxy uses Authorization."""
    _, token = api_keys.create(connection, "ann")
    filled = {name: value.format(token=token) for name, value in headers.items()}
    assert (await guarded.get("/jobs", headers=filled)).status_code == 200


async def test_invalid_tokens_are_indistinguishable(
    guarded: httpx.AsyncClient, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes one lookup and one comparison, like a valid one, and gets the same response."""
    _, token = api_keys.create(connection, "ann")
    compare = api_keys.hmac.compare_digest
    lengths = []

    def count(a: str, b: str) -> bool:
        lengths.append((len(a), len(b)))
        return compare(a, b)

    monkeypatch.setattr(api_keys.hmac, "compare_digest", count)
    other_end = "0" if token[-1] != "0" else "1"
    invalid = [
        token[:-1] + other_end,
        token.replace(token.split("_")[1], "0" * 12),
        token + "0",
        "text",
        "ä",
    ]
    answers = [
        await guarded.get("/jobs", headers={"authorization": f"Bearer {text}".encode("latin-1")})
        for text in invalid
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.text for answer in answers}) == 1
    (challenge,) = {answer.headers["www-authenticate"] for answer in answers}
    assert 'error="invalid_token"' in challenge
    valid = await guarded.get("/jobs", headers={"authorization": f"Bearer {token}"})
    assert valid.status_code == 200
    assert lengths == [(64, 64)] * 6


async def test_a_revoked_key_is_invalid_at_once(
    guarded: httpx.AsyncClient, connection: redis.Redis
) -> None:
    """Its accepted jobs continue."""
    header = bearer(connection)
    job = (await guarded.post("/generate", json=CUBE, headers=header)).json()
    assert api_keys.revoke(connection, key_id(header))
    answer = await guarded.get("/jobs", headers=header)
    assert answer.status_code == 401
    assert f"The API key {key_id(header)} was revoked on" in answer.json()["detail"]
    assert connection.lrange(redis_keys.QUEUE_LIST, 0, -1) == [job["id"].encode()]


async def test_a_key_expires(
    guarded: httpx.AsyncClient, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The response then says when it did."""
    header = bearer(connection, days=2)
    assert (await guarded.get("/jobs", headers=header)).status_code == 200
    later = now() + timedelta(days=3)
    monkeypatch.setattr(api_keys, "now", lambda: later)
    answer = await guarded.get("/jobs", headers=header)
    assert answer.status_code == 401
    assert " expired on " in answer.json()["detail"]


async def test_redis_stores_no_token(guarded: httpx.AsyncClient, connection: redis.Redis) -> None:
    """Neither with the key nor with its jobs, which store its id."""
    header = bearer(connection, rate="60/minute", max_jobs=3)
    job = (
        await guarded.post("/generate", json=CUBE, headers=header | {"idempotency-key": "k"})
    ).json()
    secret = header["authorization"].rpartition("_")[2].encode()
    for name in connection.keys("*"):
        assert secret not in name
        assert secret not in connection.dump(name)
    assert key_id(header).encode() in connection.dump(redis_keys.job(job["id"]))
    assert "owner" not in job


async def test_the_body_of_a_rejected_request_is_not_read(guarded: httpx.AsyncClient) -> None:
    """Large uploads without a key take no memory."""
    chunks = []

    async def body() -> AsyncIterator[bytes]:
        for _ in range(100):
            chunks.append(1)
            yield b"x" * 1000

    answer = await guarded.post(
        "/variations", content=body(), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 401
    assert chunks == []


async def test_without_redis_the_response_is_503(
    redis_server: RedisServer, guarded: httpx.AsyncClient
) -> None:
    """Not 401, because the key may be valid. Open routes stay available."""
    await asyncio.to_thread(redis_server.stop)
    answer = await guarded.get("/jobs", headers={"x-api-key": "any"})
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert (await guarded.get("/healthz")).status_code == 200


def test_a_key_names_its_owner(connection: redis.Redis) -> None:
    """Jobs know the id and the limit, and nothing else of it."""
    key, _ = api_keys.create(connection, "ann", max_jobs=3)
    assert key.owner.id == key.id
    assert key.owner.max_jobs == 3
