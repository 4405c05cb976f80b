"""Security headers, CORS and trusted hosts. No test needs Redis unless it submits a job."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from devtools.ports import free_port
from service.api.problems import problem_response
from service.app import create_app
from service.jobs.repository import JobRepository
from service.security.headers import wrap_app
from service.settings import Settings

pytestmark = pytest.mark.anyio
COMMON = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-site",
}
POLICY = "content-security-policy"
PAGE = "https://page.example"
PREFLIGHT = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "prefer, x-any",
}


def client_with(**fields: Any) -> httpx.AsyncClient:
    """Return a client of a service without Redis. Unhandled exceptions become responses."""
    url = f"redis://127.0.0.1:{free_port()}/0"
    settings = Settings(**{"redis_url": url, "trusted_hosts": "*"} | fields)
    app = wrap_app(create_app(settings), settings, problem_response)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://service", timeout=60)


@pytest.fixture
async def broken(
    monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> AsyncIterator[httpx.AsyncClient]:
    """A service that other pages may call, and that cannot read jobs."""

    async def fail(*args: Any) -> None:
        raise RuntimeError("unexpected")

    monkeypatch.setattr(JobRepository, "get_owned", fail)
    async with client_with(cors_origins=(PAGE,)) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "status", "content"),
    [
        ("GET", "/healthz", 200, b""),
        ("GET", "/nothing", 404, b""),
        ("OPTIONS", "/generate", 405, b""),
        ("POST", "/generate", 415, b"{}"),
        ("POST", "/gallery/images", 413, b" " * (2 << 20)),
    ],
)
async def test_every_response_has_the_headers(
    alone: httpx.AsyncClient, method: str, path: str, status: int, content: bytes
) -> None:
    """Whichever layer creates it."""
    answer = await alone.request(method, path, content=content)
    assert answer.status_code == status
    assert COMMON.items() <= dict(answer.headers).items()
    assert answer.headers[POLICY].startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in answer.headers[POLICY]
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
    assert "strict-transport-security" not in answer.headers


async def test_the_response_to_an_unhandled_exception_has_the_headers(
    broken: httpx.AsyncClient,
) -> None:
    """FastAPI's outermost middleware creates it, and a page of another origin can read it."""
    answer = await broken.get("/jobs/x", headers={"x-request-id": "7", "origin": PAGE})
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == "7"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["access-control-allow-origin"] == PAGE


async def test_https_is_required_after_https(alone: httpx.AsyncClient) -> None:
    """Over http the header has no effect."""
    answer = await alone.get("https://service/healthz")
    assert answer.headers["strict-transport-security"] == "max-age=31536000"


async def test_the_documentation_loads_only_files_of_the_service(alone: httpx.AsyncClient) -> None:
    """Neither the page nor its policy names another host, and no script is inline."""
    page = await alone.get("/docs")
    assert "http:" not in page.text + page.headers[POLICY]
    assert "https:" not in page.text + page.headers[POLICY]
    policy = dict(part.split(" ", 1) for part in page.headers[POLICY].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["connect-src"] == "'self'"
    scripts = re.findall(r"<script([^>]*)>([^<]*)</script>", page.text)
    assert len(scripts) == 2
    assert all("src=" in attributes and not code for attributes, code in scripts)
    for path in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        answer = await alone.get(f"/{path}")
        assert answer.status_code == 200
        assert "script-src" not in answer.headers[POLICY]


@pytest.mark.parametrize("path", ["/redoc", "/docs/oauth2-redirect", "/docs/static/"])
async def test_there_is_no_other_documentation(alone: httpx.AsyncClient, path: str) -> None:
    """FastAPI's own pages load scripts from another host."""
    assert (await alone.get(path)).status_code == 404


async def test_other_responses_may_not_run_scripts(alone: httpx.AsyncClient) -> None:
    """The policy of the documentation is for its pages only."""
    answer = await alone.get("/openapi.json")
    assert "script-src" not in answer.headers[POLICY]


async def test_cors_is_off_by_default(alone: httpx.AsyncClient) -> None:
    """No response has any of its headers."""
    for answer in (
        await alone.options("/generate", headers=PREFLIGHT),
        await alone.get("/healthz", headers=PREFLIGHT),
    ):
        cors = [name for name in answer.headers if name.startswith("access-control")]
        assert cors == []


async def test_a_named_origin_may_call() -> None:
    """And read the headers that a client needs, and embed images."""
    async with client_with(cors_origins=f"{PAGE}, http://localhost:3000") as client:
        preflight = await client.options("/generate", headers=PREFLIGHT)
        answer = await client.get("/healthz", headers={"origin": "http://localhost:3000"})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == PAGE
    assert preflight.headers["access-control-allow-headers"] == "prefer, x-any"
    assert "x-request-id" in preflight.headers
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
    exposed = set(answer.headers["access-control-expose-headers"].split(", "))
    assert {"Location", "Retry-After", "X-Request-ID", "Link"} <= exposed
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"


async def test_another_origin_may_not_call() -> None:
    """Neither with a preflight nor without."""
    headers = PREFLIGHT | {"origin": "https://other.example"}
    async with client_with(cors_origins=PAGE) as client:
        for answer in (
            await client.options("/generate", headers=headers),
            await client.get("/healthz", headers=headers),
        ):
            assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("images.example", 200),
        ("images.example:8000", 200),
        ("a.local", 200),
        ("[::1]:80", 200),
        ("evil.example", 400),
        ("images.example.evil.example", 400),
        ("[", 400),
    ],
)
async def test_only_trusted_hosts_are_served(host: str, status: int) -> None:
    """Other requests get a problem. Probes use addresses and are always served."""
    async with client_with(trusted_hosts="images.example, *.local, ::1") as client:
        answer = await client.get("/openapi.json", headers={"host": host})
        probe = await client.get("/healthz", headers={"host": host})
    assert answer.status_code == status
    assert probe.status_code == 200
    if status == 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert repr(host) in answer.json()["detail"]


async def test_responses_are_streamed() -> None:
    """A chunk is sent before the next one is created, and own headers are not replaced."""
    sent: list[Any] = []
    sent_before: list[int] = []

    async def app(scope: Any, receive: Any, send: Callable[..., Any]) -> None:
        headers = [(POLICY.encode(), b"its own")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for chunk in (b"a", b"b"):
            await send({"type": "http.response.body", "body": chunk, "more_body": chunk == b"a"})
            sent_before.append(len(sent))

    async def receive() -> Any:
        raise AssertionError("the body is not read")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "headers": [(b"origin", PAGE.encode())],
        "scheme": "http",
    }
    wrapped = wrap_app(app, Settings(cors_origins=("*",), trusted_hosts=("*",)), problem_response)
    await wrapped(scope, receive, send)
    assert sent_before == [2, 3]
    assert dict(sent[0]["headers"])[POLICY.encode()] == b"its own"


@pytest.mark.parametrize("path", ["/jobs", "/jobs/" + "0" * 32, "/nothing", "/openapi.json"])
async def test_json_is_not_stored(path: str) -> None:
    """It may have links that open images without a key."""
    async with client_with() as client:
        answer = await client.get(path)
    assert "json" in answer.headers["content-type"]
    assert answer.headers["cache-control"] == "no-store"
