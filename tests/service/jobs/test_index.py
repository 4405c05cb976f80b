"""The list of jobs, on a real Redis: in order, a page at a time, and no longer than the jobs themselves."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import redis.asyncio

from contracts import redis_keys
from contracts.jobs import now, written
from service.jobs import index

pytestmark = pytest.mark.anyio
START = datetime(2026, 1, 1, tzinfo=UTC)


async def enter(
    store: redis.asyncio.Redis, job_id: str, at: datetime, owner: str | None = None, **fields: Any
) -> None:
    """A job as the service records it."""
    recorded = {"operation": "generate", "status": "queued", "request": {"prompt": job_id}} | fields
    async with store.pipeline() as pipe:
        pipe.hset(redis_keys.job(job_id), mapping=written(created_at=at, **recorded))
        index.enter(pipe, job_id, at, owner)
        await pipe.execute()


async def many(store: redis.asyncio.Redis, count: int, **fields: Any) -> list[str]:
    """Jobs a second apart; their ids, newest first."""
    names = [f"j{at:03}" for at in range(count)]
    for at, name in enumerate(names):
        await enter(store, name, START + timedelta(seconds=at), **fields)
    return names[::-1]


async def all_pages(client: httpx.AsyncClient, **wanted: Any) -> list[list[str]]:
    """The ids on each page, to the last."""
    pages: list[list[str]] = []
    while True:
        answer = (await client.get("/jobs", params=wanted)).raise_for_status().json()
        pages.append([job["id"] for job in answer["jobs"]])
        if answer["next"] is None:
            return pages
        wanted["cursor"] = answer["next"]


async def test_a_job_is_listed_once_accepted(client: httpx.AsyncClient) -> None:
    """With what a list shows, and where it is told whole."""
    job = (await client.post("/generate", json={"prompt": "a red cube"})).json()
    answer = (await client.get("/jobs")).json()
    assert answer["next"] is None
    assert len(answer["jobs"]) == 1
    (listed,) = answer["jobs"]
    assert listed["url"] == job["links"]["self"]
    assert listed["prompt"] == "a red cube"
    for name in (
        "id",
        "operation",
        "status",
        "images",
        "animation",
        "error",
        "created_at",
        "started_at",
        "finished_at",
        "progress",
    ):
        assert listed[name] == job[name], name


async def test_pages_are_whole_and_newest_first(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """Each job once, and 20 of them where no number is given."""
    names = await many(store, 50)
    assert await all_pages(client) == [names[:20], names[20:40], names[40:]]
    assert list(itertools.chain(*await all_pages(client, limit=7))) == names
    assert await all_pages(client, limit=50) == [names]


async def test_jobs_that_come_in_do_not_move_a_page(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """Nor do those that go."""
    names = await many(store, 6)
    first = (await client.get("/jobs", params={"limit": 3})).json()
    await enter(store, "new", now())
    await store.delete(redis_keys.job(names[2]))
    second = (await client.get("/jobs", params={"limit": 3, "cursor": first["next"]})).json()
    assert [job["id"] for job in second["jobs"]] == names[3:]


async def test_jobs_of_one_moment_are_told_apart(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """Thirty in the same microsecond: every one, once."""
    for at in range(30):
        await enter(store, f"j{at}", START)
    pages = await all_pages(client, limit=4)
    assert len(pages) == 8
    assert sorted(itertools.chain(*pages)) == sorted(f"j{at}" for at in range(30))


async def test_filters_choose(client: httpx.AsyncClient, store: redis.asyncio.Redis) -> None:
    """By status, operation and time, and by several at once."""
    await many(store, 6)
    await enter(store, "failed", START + timedelta(seconds=2.5), status="failed")
    await enter(store, "probe", START + timedelta(seconds=3.5), operation="probe")
    assert await all_pages(client, status="failed") == [["failed"]]
    assert await all_pages(client, operation="probe") == [["probe"]]
    assert await all_pages(client, operation="probe", status="failed") == [[]]
    between = {
        "created_after": (START + timedelta(seconds=2)).isoformat(),
        "created_before": (START + timedelta(seconds=4)).isoformat(),
    }
    assert await all_pages(client, **between) == [["probe", "j003", "failed", "j002"]]
    assert await all_pages(client, **between, limit=2, operation="generate") == [
        ["j003", "failed"],
        ["j002"],
    ]


async def test_what_is_rare_is_found_page_by_page(
    client: httpx.AsyncClient, store: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page looks at so many jobs at most, then says where to go on."""
    monkeypatch.setattr(index, "SCANNED", 10)
    await many(store, 45)
    await enter(store, "failed", START - timedelta(seconds=1), status="failed")
    pages = await all_pages(client, status="failed")
    assert pages[:4] == [[]] * 4
    assert list(itertools.chain(*pages)) == ["failed"]


async def test_owners_see_their_own(store: redis.asyncio.Redis) -> None:
    """And whoever asks for no owner sees all."""
    await enter(store, "a", START, owner="ann")
    await enter(store, "b", START + timedelta(seconds=1), owner="bob")
    await enter(store, "c", START + timedelta(seconds=2))
    seen = {
        owner: [job_id for job_id, _ in (await index.page(store, 10, owner=owner)).jobs]
        for owner in ("ann", "bob", "eve", None)
    }
    assert seen == {"ann": ["a"], "bob": ["b"], "eve": [], None: ["c", "b", "a"]}


async def test_nothing_is_left_of_jobs_that_expired(
    store: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In no index. What still waits stays, however old, and so does what is young."""
    monkeypatch.setattr(index, "CLEARED", 3)
    for at in range(10):
        await enter(store, f"old{at}", START + timedelta(seconds=at), owner="ann")
    await enter(store, "waits", START + timedelta(seconds=4.5))
    await enter(store, "young", now())
    await store.delete(*(redis_keys.job(f"old{at}") for at in range(10)), redis_keys.job("young"))
    assert await index.clear(store, 100) == 10
    assert await store.zrange(redis_keys.listing(), 0, -1) == [b"waits:", b"young:"]
    await store.delete(redis_keys.job("waits"))
    assert await index.clear(store, 100) == 1
    assert await index.clear(store, 0) == 1
    assert await store.keys("*") == []


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"cursor": "what"}, "cursor: 'what' is none"),
        ({"cursor": "bmFuIGFiYw"}, "is none"),  # "nan abc"
        ({"limit": 0}, "limit: "),
        ({"limit": 101}, "limit: "),
        ({"status": "lost"}, "status: "),
        ({"operation": "paint"}, "operation: there is no 'paint'. There are generate, "),
        ({"created_after": "2026-01-01T00:00:00"}, "created_after: "),
        ({"page": 2}, "page: There is no such field"),
    ],
)
async def test_what_will_not_do_is_said(
    client: httpx.AsyncClient, wanted: dict[str, Any], said: str
) -> None:
    """422, with the parameter's name."""
    answer = await client.get("/jobs", params=wanted)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]
