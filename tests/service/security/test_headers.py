"""What goes around every answer: the request's id, headers that browsers heed, and who may ask. No Redis is asked unless a job is made."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from devtools.ports import free_port
from service.api.problems import problem_response
from service.app import create_app
from service.jobs.repository import Jobs
from service.security.headers import wrap_app
from service.settings import Settings

pytestmark = pytest.mark.anyio
ALWAYS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-site",
}


def app_of(**settings: Any) -> Any:
    checked = Settings(redis_url=f"redis://127.0.0.1:{free_port()}/0", **settings)
    return wrap_app(create_app(checked), checked, problem_response)


def client_of(app: Any) -> httpx.AsyncClient:
    """A client to which an exception that leaves the app is the answer that was made of it."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app, raise_app_exceptions=False),
        base_url="http://house",
        timeout=60,
    )


@pytest.fixture
async def broken(
    monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> AsyncIterator[httpx.AsyncClient]:
    """A service that other pages may call, which fails at GET /jobs/{id} by an error nobody thought of."""

    async def find(*args: Any) -> None:
        raise RuntimeError("nobody thought of this")

    monkeypatch.setattr(Jobs, "find", find)
    async with client_of(app_of(cors_origins=("https://page.example",))) as client:
        yield client


async def test_every_answer_has_them_whatever_it_says(alone: httpx.AsyncClient) -> None:
    """Found, not found, refused at the door and further in, and a preflight that is none."""
    for method, path, status, content in (
        ("GET", "/healthz", 200, b""),
        ("GET", "/nothing", 404, b""),
        ("OPTIONS", "/generate", 405, b""),
        ("POST", "/generate", 415, b"{}"),
        ("POST", "/generate", 413, b" " * (2 << 20)),
    ):
        answer = await alone.request(method, path, content=content)
        assert answer.status_code == status and ALWAYS.items() <= dict(answer.headers).items(), (
            path,
            answer.headers,
        )
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; ")
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
        assert "strict-transport-security" not in answer.headers


async def test_an_error_nobody_thought_of_has_them_too(broken: httpx.AsyncClient) -> None:
    """Its answer is made outside the application's own middleware; a page of another origin can read it nonetheless."""
    answer = await broken.get(
        "/jobs/x", headers={"x-request-id": "7", "origin": "https://page.example"}
    )
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == "7"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["access-control-allow-origin"] == "https://page.example"


async def test_https_is_told_to_be_kept(alone: httpx.AsyncClient) -> None:
    """Only where it was used: by http the header would mean nothing, or lock out who has no https."""
    assert (await alone.get("https://house/healthz")).headers[
        "strict-transport-security"
    ] == "max-age=31536000"


@pytest.mark.parametrize("given", ["7", "a b", "~" * 128])
async def test_an_id_that_is_given_comes_back(alone: httpx.AsyncClient, given: str) -> None:
    assert (await alone.get("/healthz", headers={"x-request-id": given})).headers[
        "x-request-id"
    ] == given


@pytest.mark.parametrize("given", [b"", b"~" * 129, "é".encode(), b"a\tb", b"\x1b[31m"])
async def test_an_id_that_does_not_do_is_replaced(alone: httpx.AsyncClient, given: bytes) -> None:
    """By one of its own for each request: an id is for finding things, and not worth refusing a request for."""
    answers = [
        (await alone.get("/healthz", headers={"x-request-id": given})).headers["x-request-id"]
        for _ in range(2)
    ]
    assert all(re.fullmatch("[0-9a-f]{32}", answer) for answer in answers)
    assert len(set(answers)) == 2


async def test_a_job_keeps_the_id_of_the_request_that_made_it(client: httpx.AsyncClient) -> None:
    """However it is asked for later, and where the request is repeated."""
    headers = {"x-request-id": "first", "idempotency-key": "k"}
    made = (await client.post("/generate", json={"prompt": "a"}, headers=headers)).json()
    again = await client.post(
        "/generate", json={"prompt": "a"}, headers=headers | {"x-request-id": "second"}
    )
    assert made["request_id"] == again.json()["request_id"] == "first"
    assert again.headers["x-request-id"] == "second"
    assert (await client.get(f"/jobs/{made['id']}")).json()["request_id"] == "first"


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_the_documentation_may_load_what_it_is_made_of(
    alone: httpx.AsyncClient, path: str
) -> None:
    """Each script, style and image that the page names is allowed by the policy that comes with it."""
    answer = await alone.get(path)
    policy = {
        kind: sources.split()
        for kind, _, sources in (
            part.strip().partition(" ") for part in answer.headers[POLICY].split(";")
        )
    }
    loaded = re.findall(r'<(script|link|img)[^>]*?(?:src|href)="([^"]+)"', answer.text)
    assert any(tag == "script" for tag, _ in loaded)
    for tag, url in loaded:
        kind = {"script": "script-src", "img": "img-src"}.get(tag) or (
            "img-src" if "favicon" in url else "style-src"
        )
        assert f"https://{urlsplit(url).netloc}" in policy[kind], (kind, url)
    assert "'unsafe-inline'" in policy["script-src"]
    assert policy["connect-src"] == ["'self'"]
    assert POLICY in (await alone.get("/openapi.json")).headers
    assert "script-src" not in (await alone.get("/openapi.json")).headers[POLICY]


POLICY = "content-security-policy"
PREFLIGHT = {
    "origin": "https://page.example",
    "access-control-request-method": "POST",
    "access-control-request-headers": "prefer, x-any",
}


async def test_no_other_origin_may_call_unless_told(alone: httpx.AsyncClient) -> None:
    """There is no header about it at all."""
    for answer in (
        await alone.options("/generate", headers=PREFLIGHT),
        await alone.get("/healthz", headers=PREFLIGHT),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_an_origin_that_is_named_may_call_and_read() -> None:
    """It, and no other; with the headers that a client of this service needs, and images too."""
    async with client_of(
        app_of(cors_origins="https://page.example, http://localhost:3000")
    ) as client:
        preflight = await client.options("/generate", headers=PREFLIGHT)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://page.example"
        assert preflight.headers["access-control-allow-headers"] == "prefer, x-any"
        assert "x-request-id" in preflight.headers
        answer = await client.get("/healthz", headers={"origin": "http://localhost:3000"})
        assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
        exposed = set(answer.headers["access-control-expose-headers"].split(", "))
        assert {"Location", "Retry-After", "X-Request-ID", "Link"} <= exposed
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
        other = PREFLIGHT | {"origin": "https://other.example"}
        assert (
            "access-control-allow-origin"
            not in (await client.options("/generate", headers=other)).headers
        )
        assert (
            "access-control-allow-origin"
            not in (await client.get("/healthz", headers=other)).headers
        )


@pytest.mark.parametrize(
    ("host", "answered"),
    [
        ("images.example", True),
        ("images.example:8000", True),
        ("a.local", True),
        ("[::1]:80", True),
        ("evil.example", False),
    ],
)
async def test_only_hosts_that_are_trusted_are_answered_for(host: str, answered: bool) -> None:
    """A problem says so; probes ask by address, and are always answered."""
    async with client_of(app_of(trusted_hosts="images.example, *.local, ::1")) as client:
        answer = await client.get("/openapi.json", headers={"host": host})
        assert answer.status_code == (200 if answered else 400)
        assert answered or (answer.headers["content-type"], host in answer.json()["detail"]) == (
            "application/problem+json",
            True,
        )
        assert (await client.get("/healthz", headers={"host": host})).status_code == 200


async def test_what_an_answer_sends_goes_out_at_once() -> None:
    """A chunk is with the client before the next one is made: events are of no use later."""
    sent: list[Any] = []
    seen: list[int] = []

    async def streaming(scope: Any, receive: Any, send: Callable[..., Any]) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-security-policy", b"its own")],
            }
        )
        for chunk in (b"a", b"b"):
            await send({"type": "http.response.body", "body": chunk, "more_body": chunk == b"a"})
            seen.append(len(sent))

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "headers": [(b"origin", b"https://page.example")],
        "scheme": "http",
    }
    await wrap_app(streaming, Settings(cors_origins=("*",)), problem_response)(scope, None, send)  # type: ignore[arg-type]
    assert seen == [2, 3]
    assert dict(sent[0]["headers"])[b"content-security-policy"] == b"its own"


async def test_events_of_a_job_carry_the_id(
    serve: Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]],
) -> None:
    """A stream is an answer like any other."""
    async with serve() as client:
        job = (await client.post("/generate", json={"prompt": "a"})).json()
        await client.delete(f"/jobs/{job['id']}")
        answer = await client.get(f"/jobs/{job['id']}/events", headers={"x-request-id": "e"})
        assert answer.headers["x-request-id"] == "e"
        assert "event: ended" in answer.text
