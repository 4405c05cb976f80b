"""The links of images: counted, and revoked by their owner."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import redis
from support.service.keys import CUBE, bearer
from support.service_jobs import as_worker, succeed

from devtools.redis_server import RedisServer
from service.security import rate_limit
from service.security.rate_limit import Rate

pytestmark = pytest.mark.anyio


async def make_link(client: httpx.AsyncClient, server: RedisServer, key: dict[str, str]) -> str:
    """Return the URL of an image of a new job, from its path on."""
    answer = await client.post("/generate", json=CUBE, headers=key)
    assert answer.status_code == 202
    job_id = answer.json()["id"]
    await as_worker(server, job_id, succeed)
    job = (await client.get(f"/jobs/{job_id}", headers=key)).json()
    parts = urlsplit(job["images"][0]["url"])
    return f"{parts.path}?{parts.query}"


async def test_a_revoked_link_opens_nothing(
    guarded: httpx.AsyncClient, redis_server: RedisServer, connection: redis.Redis
) -> None:
    """The new one does, and only the owner may revoke it."""
    ann, bob = bearer(connection), bearer(connection, "bob")
    old = await make_link(guarded, redis_server, ann)
    job_url = old.partition("/images")[0]
    assert (await guarded.get(old)).status_code == 200
    assert (await guarded.delete(f"{job_url}/link")).status_code == 401
    assert (await guarded.delete(f"{job_url}/link", headers=bob)).status_code == 404
    before = (await guarded.get(job_url, headers=ann)).json()
    answer = await guarded.delete(f"{job_url}/link", headers=ann)
    assert answer.status_code == 200
    new = answer.json()["images"][0]["url"]
    assert (await guarded.get(old)).status_code == 401
    assert (await guarded.get(new)).status_code == 200
    after = (await guarded.get(job_url, headers=ann)).json()
    assert {name for name in after if after[name] != before[name]} == {"images"}


async def test_without_keys_there_is_no_link(client: httpx.AsyncClient) -> None:
    """Nor a job that does not exist."""
    job = (await client.post("/generate", json=CUBE)).json()
    for job_id in (job["id"], "0" * 32):
        assert (await client.delete(f"/jobs/{job_id}/link")).status_code == 404


async def test_requests_by_link_have_a_rate(
    guarded: httpx.AsyncClient,
    redis_server: RedisServer,
    connection: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each job's link has its own, and wrong links do not use it up."""
    monkeypatch.setattr(rate_limit, "LINK_RATE", Rate(3, 3600))
    key = bearer(connection)
    first = await make_link(guarded, redis_server, key)
    second = await make_link(guarded, redis_server, key)
    for _ in range(5):
        assert (await guarded.get(first + "x")).status_code == 401
    answers = [await guarded.get(first) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert int(answers[-1].headers["retry-after"]) > 0
    assert (await guarded.get(second)).status_code == 200
    assert (await guarded.get(first, headers=key)).status_code == 429
    assert (await guarded.get(first.partition("?")[0], headers=key)).status_code == 200


async def test_priority_and_cost_of_a_key_are_bounded(
    guarded: httpx.AsyncClient, connection: redis.Redis
) -> None:
    """By default a key has no higher priority than others."""
    plain = bearer(connection)
    limited = bearer(connection, "bob", max_priority=5, max_cost=100)
    cases: list[tuple[dict[str, str], dict[str, Any], int, str]] = [
        (plain, {"priority": 1}, 422, "priority: API key"),
        (plain, {"priority": -1, "size": 1024, "n": 10}, 202, ""),
        (limited, {"priority": 5}, 202, ""),
        (limited, {"priority": 6}, 422, "may use at most 5"),
        (limited, {"size": 1024}, 202, ""),
        (limited, {"size": 1024, "n": 2}, 422, "costs 200 steps"),
        (limited, {"size": 256, "n": 10}, 202, ""),
        (limited, {"size": 256, "decoder_num_inference_steps": 1000, "n": 2}, 422, "costs 132"),
        (limited, {}, 202, ""),
        (limited, {"n": 3}, 422, "costs 300 steps"),
    ]
    for header, fields, status, message in cases:
        answer = await guarded.post("/generate", json={"prompt": "a"} | fields, headers=header)
        assert answer.status_code == status, fields
        assert message in answer.text
