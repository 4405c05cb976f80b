"""Rate limits of API keys, across several services."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import pytest
import redis
from support.service.keys import CUBE, MISSING_ID, bearer, key_id

from contracts import redis_keys
from contracts.jobs import now
from service.security.rate_limit import Rate, parse_rate

pytestmark = pytest.mark.anyio


async def test_services_share_a_limit(serve: Any, connection: redis.Redis) -> None:
    """Of 20 concurrent requests to two services 5 are allowed. Other keys are not affected."""
    ann = bearer(connection, rate="5/hour")
    bob = bearer(connection, "bob", rate="5/hour")
    async with serve(api_keys="required") as first, serve(api_keys="required") as second:
        clients = [first, second] * 10
        answers = await asyncio.gather(*(client.get("/jobs", headers=ann) for client in clients))
        assert sorted(answer.status_code for answer in answers) == [200] * 5 + [429] * 15
        assert (await first.get("/jobs", headers=bob)).status_code == 200
        assert (await second.post("/generate", json=CUBE, headers=ann)).status_code == 429
    assert connection.llen(redis_keys.QUEUE_LIST) == 0


async def test_every_response_reports_the_limit(
    guarded: httpx.AsyncClient, connection: redis.Redis
) -> None:
    """Also errors; over the limit, with the time to wait."""
    header = bearer(connection, rate="2/hour")
    for path, remaining in (("/jobs", "1"), (f"/jobs/{MISSING_ID}", "0")):
        answer = await guarded.get(path, headers=header)
        assert answer.headers["ratelimit-limit"] == "2"
        assert answer.headers["ratelimit-remaining"] == remaining
        assert 0 < int(answer.headers["ratelimit-reset"]) <= 3600
    rejected = await guarded.get("/jobs", headers=header)
    assert rejected.status_code == 429
    assert rejected.headers["content-type"] == "application/problem+json"
    assert 0 < int(rejected.headers["retry-after"]) <= 1800
    assert 1800 < int(rejected.headers["ratelimit-reset"]) <= 3600
    assert rejected.headers.get_list("ratelimit-remaining") == ["0"]
    detail = f"Rate limit of 2/hour exceeded for API key {key_id(header)}."
    assert rejected.json()["detail"].startswith(detail)


async def test_a_key_without_a_rate_has_no_headers(
    guarded: httpx.AsyncClient, connection: redis.Redis
) -> None:
    """Its requests are not counted."""
    answer = await guarded.get("/jobs", headers=bearer(connection))
    assert "ratelimit-limit" not in answer.headers


async def test_retry_after_is_long_enough(
    guarded: httpx.AsyncClient, connection: redis.Redis
) -> None:
    """A client that waits for it is allowed again."""
    header = bearer(connection, rate="60/hour")
    # All 60 requests were sent, the first of them 55 s ago.
    full_at = now() + timedelta(minutes=59, seconds=5)
    bucket = redis_keys.rate_limit(key_id(header))
    connection.set(bucket, round(full_at.timestamp() * 1_000_000))
    answer = await guarded.get("/jobs", headers=header)
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 5
    await asyncio.sleep(int(answer.headers["retry-after"]))
    assert (await guarded.get("/jobs", headers=header)).status_code == 200


async def test_counting_does_not_write_to_disk(
    guarded: httpx.AsyncClient, connection: redis.Redis
) -> None:
    """The counter stays out of the append-only file, for which each request would wait."""
    header = bearer(connection, rate="100/hour")
    size_before = connection.info("persistence")["aof_current_size"]
    for remaining in ("99", "98", "97"):
        answer = await guarded.get("/jobs", headers=header)
        assert answer.headers["ratelimit-remaining"] == remaining
    assert connection.info("persistence")["aof_current_size"] == size_before
    connection.set("any", 1)
    assert connection.info("persistence")["aof_current_size"] > size_before
    assert 0 < connection.ttl(redis_keys.rate_limit(key_id(header))) <= 108


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("5/second", Rate(5, 1)),
        ("60/minute", Rate(60, 60)),
        ("1/hour", Rate(1, 3600)),
        ("999999/day", Rate(999_999, 86_400)),
    ],
)
def test_a_rate_is_parsed(text: str, rate: Rate) -> None:
    """As a number of requests per interval."""
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["often", "0/minute", "60/minutes", "60", "1000000/day", "-1/day"])
def test_an_invalid_rate_is_an_error_with_an_example(text: str) -> None:
    """And with the value."""
    with pytest.raises(ValueError, match=r"invalid rate '.*': expected .*, e\.g\. 60/minute"):
        parse_rate(text)
