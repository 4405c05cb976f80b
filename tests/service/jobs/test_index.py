"""The list of jobs on a real Redis: in order, page by page, without expired jobs."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import redis.asyncio
from support.service_jobs import CUBE

from contracts import redis_keys
from contracts.jobs import JobRecord, JobSpec, JobStatus, now
from contracts.operations import OPERATIONS
from service.jobs import index

pytestmark = pytest.mark.anyio
START = datetime(2026, 1, 1, tzinfo=UTC)
REQUESTS: dict[str, dict[str, Any]] = {
    "generate": {"prompt": "a"},
    "embeddings": {"prompt": "a"},
}


def id_of(name: str) -> str:
    """Return a job id, 32 hex digits, that holds a short name."""
    return name.encode().hex().zfill(32)


def name_of(job_id: str) -> str:
    """Return the name in an id."""
    return bytes.fromhex(job_id).lstrip(b"\0").decode()


async def add_job(
    store: redis.asyncio.Redis,
    name: str,
    created_at: datetime,
    *,
    owner: str | None = None,
    operation: str = "generate",
    status: JobStatus = "queued",
) -> None:
    """Record a job as the service does, under the id of a name."""
    job_id = id_of(name)
    request = OPERATIONS[operation].model_validate(REQUESTS[operation])
    spec = JobSpec(operation=operation, request=request, owner=owner, created_at=created_at)
    record = JobRecord(job_id, spec, status)
    async with store.pipeline() as pipe:
        pipe.hset(redis_keys.job(job_id), mapping=record.to_hash())
        index.add(pipe, record)
        await pipe.execute()


async def add_jobs(store: redis.asyncio.Redis, count: int) -> list[str]:
    """Record jobs that are a second apart. Return their names, newest first."""
    names = [f"j{number:03}" for number in range(count)]
    for number, name in enumerate(names):
        await add_job(store, name, START + timedelta(seconds=number))
    return names[::-1]


async def read_pages(client: httpx.AsyncClient, **params: Any) -> list[list[str]]:
    """Return the names of the jobs on each page, until the last."""
    pages: list[list[str]] = []
    while True:
        page = (await client.get("/jobs", params=params)).raise_for_status().json()
        pages.append([name_of(job["id"]) for job in page["jobs"]])
        if page["next"] is None:
            return pages
        params["cursor"] = page["next"]


async def test_an_accepted_job_is_listed(client: httpx.AsyncClient) -> None:
    """A listed job has the fields of the job that lists show, its URL and its prompt."""
    job = (await client.post("/generate", json=CUBE)).json()
    page = (await client.get("/jobs")).json()
    assert page["next"] is None
    (listed,) = page["jobs"]
    assert listed.pop("url") == job["links"]["self"]
    assert listed.pop("prompt") == "a red cube"
    assert listed == {name: job[name] for name in listed}
    assert listed.keys() == {
        "id",
        "operation",
        "status",
        "progress",
        "images",
        "animation",
        "error",
        "created_at",
        "started_at",
        "finished_at",
    }


async def test_pages_are_newest_first(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """Each job comes once; a page has 20 jobs by default."""
    ids = await add_jobs(store, 50)
    assert await read_pages(client) == [ids[:20], ids[20:40], ids[40:]]
    assert list(itertools.chain(*await read_pages(client, limit=7))) == ids
    assert await read_pages(client, limit=50) == [ids]


async def test_new_jobs_do_not_move_a_page(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """Deleted jobs do not either."""
    ids = await add_jobs(store, 6)
    first = (await client.get("/jobs", params={"limit": 3})).json()
    await add_job(store, "new", now())
    await store.delete(redis_keys.job(id_of(ids[2])))
    second = (await client.get("/jobs", params={"limit": 3, "cursor": first["next"]})).json()
    assert [name_of(job["id"]) for job in second["jobs"]] == ids[3:]


async def test_jobs_of_the_same_microsecond_are_listed_once(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """A cursor distinguishes jobs with equal times."""
    ids = sorted(f"j{number}" for number in range(30))
    for job_id in ids:
        await add_job(store, job_id, START)
    pages = await read_pages(client, limit=4)
    assert len(pages) == 8
    assert sorted(itertools.chain(*pages)) == ids


async def test_filters_select_jobs(client: httpx.AsyncClient, store: redis.asyncio.Redis) -> None:
    """Status, operation and time can be combined."""
    await add_jobs(store, 6)
    await add_job(store, "failed", START + timedelta(seconds=2.5), status="failed")
    await add_job(store, "embedding", START + timedelta(seconds=3.5), operation="embeddings")
    assert await read_pages(client, status="failed") == [["failed"]]
    assert await read_pages(client, operation="embeddings") == [["embedding"]]
    assert await read_pages(client, operation="embeddings", status="failed") == [[]]
    between = {
        "created_after": (START + timedelta(seconds=2)).isoformat(),
        "created_before": (START + timedelta(seconds=4)).isoformat(),
    }
    assert await read_pages(client, **between) == [["embedding", "j003", "failed", "j002"]]
    pages = await read_pages(client, **between, limit=2, operation="generate")
    assert pages == [["j003", "failed"], ["j002"]]


async def test_rare_jobs_are_reached_page_by_page(
    client: httpx.AsyncClient, store: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page scans a limited number of entries and continues at its cursor."""
    monkeypatch.setattr(index, "MAX_SCANNED", 10)
    await add_jobs(store, 45)
    await add_job(store, "failed", START - timedelta(seconds=1), status="failed")
    pages = await read_pages(client, status="failed")
    assert pages[:4] == [[]] * 4
    assert list(itertools.chain(*pages)) == ["failed"]


@pytest.mark.parametrize(
    ("owner", "ids"), [("ann", ["a"]), ("bob", ["b"]), ("eve", []), (None, ["c", "b", "a"])]
)
async def test_owners_see_their_own_jobs(
    store: redis.asyncio.Redis, owner: str | None, ids: list[str]
) -> None:
    """Without an owner all jobs are listed."""
    await add_job(store, "a", START, owner="ann")
    await add_job(store, "b", START + timedelta(seconds=1), owner="bob")
    await add_job(store, "c", START + timedelta(seconds=2))
    page = await index.read_page(store, 10, owner=owner)
    assert [name_of(record.id) for record in page.records] == ids


async def test_expired_jobs_leave_all_indexes(
    store: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that still waits stays, however old, and a young one is not checked."""
    monkeypatch.setattr(index, "PRUNED_AT_ONCE", 3)
    ids = [f"old{number}" for number in range(10)]
    for number, job_id in enumerate(ids):
        await add_job(store, job_id, START + timedelta(seconds=number), owner="ann")
    await add_job(store, "waits", START + timedelta(seconds=4.5))
    await add_job(store, "young", now())
    await store.delete(*(redis_keys.job(id_of(name)) for name in [*ids, "young"]))
    assert await index.prune_expired(store, 100) == 10
    assert await store.zrange(redis_keys.listing(), 0, -1) == [
        f"{id_of('waits')}:".encode(),
        f"{id_of('young')}:".encode(),
    ]
    await store.delete(redis_keys.job(id_of("waits")))
    assert await index.prune_expired(store, 100) == 1
    assert await index.prune_expired(store, 0) == 1
    assert await store.keys("*") == []


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"cursor": "what"}, "cursor: 'what' is not valid"),
        # The base64 of "nan abc".
        ({"cursor": "bmFuIGFiYw"}, "is not valid"),
        ({"limit": 0}, "limit: "),
        ({"limit": 101}, "limit: "),
        ({"status": "lost"}, "status: "),
        ({"operation": "paint"}, "operation: there is no 'paint'; use one of generate, "),
        ({"created_after": "2026-01-01T00:00:00"}, "created_after: "),
        ({"page": 2}, "page: There is no such field"),
    ],
)
async def test_an_invalid_parameter_is_422(
    client: httpx.AsyncClient, params: dict[str, Any], message: str
) -> None:
    """The problem names the parameter."""
    response = await client.get("/jobs", params=params)
    assert response.status_code == 422
    assert message in response.json()["detail"]
