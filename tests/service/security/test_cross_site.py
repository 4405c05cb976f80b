"""What pages of other sites can do to a service on somebody's laptop: nothing."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from service.security.hosts import trusted_hosts
from service.settings import Settings

pytestmark = pytest.mark.anyio
FORM = {"prompt_a": (None, "a"), "prompt_b": (None, "b")}


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
    ],
)
async def test_a_form_of_another_site_is_refused(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    """Browsers send it without a preflight."""
    answer = await client.post("/interpolate", files=FORM, headers=headers)
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"
    assert "UNCLIP_CORS_ORIGINS" in answer.json()["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://service.test"},
        {"origin": "https://proxy.example", "sec-fetch-site": "same-origin"},
        {"origin": "http://service.test", "sec-fetch-site": "same-origin"},
    ],
)
async def test_own_pages_and_other_clients_may_post(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    """The studio's requests come from the service's own origin."""
    answer = await client.post("/interpolate", files=FORM, headers=headers)
    assert answer.status_code == 202


async def test_allowed_origins_may_post(serve: Any) -> None:
    """The operator's list, and the service's public URL."""
    settings = {"cors_origins": "https://a.example", "public_url": "https://Own.example/unclip"}
    async with serve(**settings) as client:
        for origin, status in (("a", 202), ("own", 202), ("evil", 403)):
            headers = {"origin": f"https://{origin}.example", "sec-fetch-site": "cross-site"}
            answer = await client.post("/interpolate", files=FORM, headers=headers)
            assert answer.status_code == status


async def test_links_of_other_sites_open_pages(client: httpx.AsyncClient) -> None:
    """A GET changes nothing."""
    answer = await client.get("/jobs", headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 200


async def test_a_rebound_name_is_refused_by_default(serve: Any) -> None:
    """On a loopback address only the machine's own names are trusted."""
    async with serve(trusted_hosts="") as client:
        for host, status in (
            ("rebind.evil.example", 400),
            ("localhost:8000", 200),
            ("127.0.0.1", 200),
            ("[::1]:8000", 200),
        ):
            answer = await client.get("/jobs", headers={"host": host})
            assert answer.status_code == status


@pytest.mark.parametrize(
    ("fields", "hosts"),
    [
        ({"host": "0.0.0.0"}, ()),
        ({"host": "0.0.0.0", "trusted_hosts": "a.example"}, ("a.example",)),
        ({"trusted_hosts": "*"}, ("*",)),
        ({"host": "::1"}, ("localhost", "127.0.0.1", "::1", "::1")),
        (
            {"public_url": "https://Own.example"},
            ("localhost", "127.0.0.1", "::1", "127.0.0.1", "own.example"),
        ),
    ],
)
def test_the_default_depends_on_the_address(fields: dict[str, str], hosts: tuple[str, ...]) -> None:
    """A service in a container cannot know its names."""
    assert trusted_hosts(Settings(**fields)) == hosts
