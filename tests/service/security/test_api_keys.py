"""API keys by HTTP, on a real Redis: who comes in, whose a job is, and limits that hold over several services."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
import redis
from fastapi import APIRouter
from PIL import Image

from contracts import redis_keys
from contracts.jobs import ImageInfo, Progress, WorkerHeartbeat, now
from devtools.redis_server import RedisServer
from service.app import create_app
from service.security import api_keys
from service.settings import Settings
from worker.jobs.record import JobRepository

pytestmark = pytest.mark.anyio
CUBE = {"prompt": "a red cube", "size": 64}
OPEN = ("/", "/docs", "/openapi.json", "/healthz", "/metrics")
GUARDED = [
    ("POST", "/generate"),
    ("POST", "/edits"),
    ("GET", "/jobs"),
    ("GET", "/jobs/x"),
    ("DELETE", "/jobs/x"),
    ("GET", "/jobs/x/events"),
    ("GET", "/jobs/x/images/0.png"),
    ("GET", "/jobs/x/animation"),
]


@pytest.fixture
def blocking(redis_server: RedisServer) -> Any:
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


@pytest.fixture
async def house(serve: Any, anyio_backend: str) -> AsyncIterator[httpx.AsyncClient]:
    """A service that asks for keys."""
    async with serve(api_keys="required") as client:
        yield client


def bearer(blocking: redis.Redis, name: str = "ann", **limits: Any) -> dict[str, str]:
    """The header of a new key."""
    return {"authorization": f"Bearer {api_keys.create(blocking, name, **limits)[1]}"}


def id_of(header: dict[str, str]) -> str:
    return header["authorization"].split("_")[1]


def drawn(blocking: redis.Redis, job_id: str, png: bytes = b"\x89PNG") -> None:
    """The job has succeeded with one image."""
    record = JobRepository(blocking, job_id, 100)
    record.start({})
    assert record.succeed(
        [png],
        [ImageInfo(seed=5, width=64, height=64)],
        [],
        Progress(stage="decoder", step=1, steps=1, fraction=1.0),
    )


class TestProof:
    """A request proves its key, or is told why it does not."""

    async def test_without_keys_required_nobody_is_asked(self, client: httpx.AsyncClient) -> None:
        """`make run` works as before, a key that comes along or not, and the document speaks of none."""
        assert (
            await client.post("/generate", json=CUBE, headers={"authorization": "Bearer what"})
        ).status_code == 202
        document = (await client.get("/openapi.json")).json()
        assert "securitySchemes" not in document["components"]
        assert "401" not in document["paths"]["/jobs"]["get"]["responses"]

    async def test_all_but_the_open_routes_want_a_key(
        self, house: httpx.AsyncClient, blocking: redis.Redis
    ) -> None:
        """401 with a challenge, as a problem, whatever the request; and nothing is queued."""
        for method, path in GUARDED:
            answer = await house.request(method, path, json=CUBE if method == "POST" else None)
            assert (
                answer.status_code == 401
                and answer.headers["www-authenticate"] == 'Bearer realm="unclip"'
            ), path
            assert answer.headers["content-type"] == "application/problem+json"
            assert "Authorization: Bearer" in answer.json()["detail"]
        assert [(await house.get(path)).status_code for path in OPEN] == [307, 200, 200, 200, 200]
        assert blocking.llen(redis_keys.QUEUE_LIST) == 0
        assert not blocking.keys("unclip:job*")

    async def test_the_table_of_guarded_routes_is_whole(self, house: httpx.AsyncClient) -> None:
        """Every operation of the document says that it wants a key, and answers 401 and 429, or is open."""
        document = (await house.get("/openapi.json")).json()
        schemes = set(document["components"]["securitySchemes"])
        problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
        openai = {"application/json": {"schema": {"$ref": "#/components/schemas/OpenAIErrorBody"}}}
        for path, operations in document["paths"].items():
            for one in operations.values():
                if path in (*OPEN, "/readyz"):
                    assert "security" not in one
                    assert "401" not in one["responses"]
                    continue
                assert {name for wanted in one["security"] for name in wanted} == schemes
                form = openai if path.startswith("/v1/") else problem
                assert (
                    one["responses"]["401"]["content"] == one["responses"]["429"]["content"] == form
                ), path

    async def test_an_image_s_url_opens_that_job_s_images_alone(
        self, house: httpx.AsyncClient, blocking: redis.Redis
    ) -> None:
        """Without a key, as a browser asks: with the URL that the owner was told, and with no other."""
        ann = {"authorization": f"Bearer {api_keys.create(blocking, 'ann')[1]}"}
        first, second = [
            (await house.post("/generate", json=CUBE, headers=ann)).json()["id"] for _ in range(2)
        ]
        drawn(blocking, first), drawn(blocking, second)
        url = (await house.get(f"/jobs/{first}", headers=ann)).json()["images"][0]["url"]
        assert (await house.get(url)).content == b"\x89PNG"
        for other in (
            url.replace(first, second),
            url[:-1],
            url.partition("?")[0],
            url.replace("images/0.png", "events"),
        ):
            assert (await house.get(other)).status_code == 401, other
        assert (await house.delete(url.replace("/images/0.png", ""))).status_code == 401

    async def test_openai_s_calls_are_refused_in_their_own_form(
        self, house: httpx.AsyncClient, blocking: redis.Redis
    ) -> None:
        """Under /v1 the error is OpenAI's, and the key the same."""
        answer = await house.post("/v1/images/generations", json={"prompt": "a red cube"})
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        token = api_keys.create(blocking, "ann")[1]
        assert (await house.get("/v1/models", headers={"authorization": f"Bearer {token}"})).json()[
            "data"
        ][0]["id"] == "dall-e-2"

    async def test_a_key_opens_by_either_header(
        self, house: httpx.AsyncClient, blocking: redis.Redis
    ) -> None:
        """Bearer in any case; X-API-Key where Authorization is a proxy's."""
        token = api_keys.create(blocking, "ann")[1]
        for header in (
            {"authorization": f"bearer {token}"},
            {"x-api-key": token},
            {"x-api-key": token, "authorization": "Basic YTpi"},
        ):
            assert (await house.get("/jobs", headers=header)).status_code == 200, header

    async def test_every_wrong_token_is_compared_once(
        self, house: httpx.AsyncClient, blocking: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Wrong in its secret, its id or its form: the same look-up and comparison as a right one has, and the same answer."""
        token = api_keys.create(blocking, "ann")[1]
        compare = api_keys.hmac.compare_digest
        compared = []
        monkeypatch.setattr(
            api_keys.hmac,
            "compare_digest",
            lambda a, b: (compared.append((len(a), len(b))), compare(a, b))[1],
        )
        wrong = [
            token[:-1] + ("0" if token[-1] != "0" else "1"),
            token.replace(token.split("_")[1], "0" * 12),
            token + "0",
            "what",
            "ä",
        ]
        answers = [
            await house.get("/jobs", headers={"authorization": f"Bearer {one}".encode("latin-1")})
            for one in wrong
        ]
        assert (
            len(
                {
                    (answer.status_code, answer.text, answer.headers["www-authenticate"])
                    for answer in answers
                }
            )
            == 1
        )
        assert answers[0].status_code == 401
        assert 'error="invalid_token"' in answers[0].headers["www-authenticate"]
        assert (
            await house.get("/jobs", headers={"authorization": f"Bearer {token}"})
        ).status_code == 200
        assert compared == [(64, 64)] * 6

    async def test_a_revoked_key_is_good_for_nothing_at_once(
        self, house: httpx.AsyncClient, blocking: redis.Redis
    ) -> None:
        """The next request is 401, and what was accepted goes on."""
        header = bearer(blocking)
        job = (await house.post("/generate", json=CUBE, headers=header)).json()
        assert api_keys.revoke(blocking, id_of(header))
        answer = await house.get("/jobs", headers=header)
        assert answer.status_code == 401
        assert f"The API key {id_of(header)} was revoked on" in answer.json()["detail"]
        assert blocking.lrange(redis_keys.QUEUE_LIST, 0, -1) == [job["id"].encode()]

    async def test_a_key_is_good_until_it_expires(
        self, house: httpx.AsyncClient, blocking: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And then says so."""
        header = bearer(blocking, days=2)
        assert (await house.get("/jobs", headers=header)).status_code == 200
        later = now() + timedelta(days=3)
        monkeypatch.setattr(api_keys, "now", lambda: later)
        answer = await house.get("/jobs", headers=header)
        assert answer.status_code == 401
        assert " expired on " in answer.json()["detail"]

    async def test_no_token_lies_in_redis(
        self, house: httpx.AsyncClient, blocking: redis.Redis
    ) -> None:
        """Nor its secret: not at the key, nor at its jobs, which hold its id."""
        header = bearer(blocking, rate="60/minute", max_jobs=3)
        job = (
            await house.post("/generate", json=CUBE, headers=header | {"idempotency-key": "k"})
        ).json()
        secret = header["authorization"].rpartition("_")[2].encode()
        assert all(
            secret not in blocking.dump(name) and secret not in name for name in blocking.keys("*")
        )
        assert blocking.hget(redis_keys.job(job["id"]), "owner") == f'"{id_of(header)}"'.encode()
        assert "owner" not in job

    async def test_the_body_of_who_may_not_come_in_is_not_read(
        self, house: httpx.AsyncClient
    ) -> None:
        """Large uploads without a key cost no memory."""
        read = []

        async def body() -> AsyncIterator[bytes]:
            for _ in range(100):
                read.append(1)
                yield b"x" * 1000

        answer = await house.post(
            "/variations", content=body(), headers={"content-type": "application/json"}
        )
        assert answer.status_code == 401
        assert not read

    async def test_without_redis_it_is_503(
        self, redis_server: RedisServer, house: httpx.AsyncClient
    ) -> None:
        """Not 401: the key may be right. What is open stays open."""
        await asyncio.to_thread(redis_server.stop)
        answer = await house.get("/jobs", headers={"x-api-key": "any"})
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert (await house.get("/healthz")).status_code == 200


class TestOwners:
    """A job belongs to the key that asked for it."""

    async def test_others_see_nothing_of_a_job(
        self, house: httpx.AsyncClient, blocking: redis.Redis
    ) -> None:
        """404 by every route, in the very words for a job that is not there; and it cannot be cancelled."""
        ann = bearer(blocking)
        bob = bearer(blocking, "bob")
        job_id = (await house.post("/generate", json=CUBE, headers=ann)).json()["id"]
        for method, path in GUARDED[3:]:
            answer = await house.request(method, path.replace("x", job_id, 1), headers=bob)
            missing = await house.request(method, path, headers=bob)
            assert answer.status_code == missing.status_code == 404, path
            assert answer.json()["detail"].replace(job_id, "x") == missing.json()["detail"]
        assert (await house.get(f"/jobs/{job_id}", headers=ann)).json()["status"] == "queued"
        drawn(blocking, job_id)
        assert (await house.get(f"/jobs/{job_id}/images/0.png", headers=ann)).content == b"\x89PNG"
        tagged = await house.get(
            f"/jobs/{job_id}/images/0.png", headers=bob | {"if-none-match": f'"{job_id}-0"'}
        )
        assert tagged.status_code == 404
        assert (await house.get(f"/jobs/{job_id}/events", headers=bob)).status_code == 404
        assert "ended" in (await house.get(f"/jobs/{job_id}/events", headers=ann)).text

    async def test_the_list_holds_ones_own(
        self, house: httpx.AsyncClient, blocking: redis.Redis
    ) -> None:
        """And jobs of before keys were required are nobody's."""
        ann = bearer(blocking)
        bob = bearer(blocking, "bob")
        made = [
            (await house.post("/generate", json=CUBE, headers=who)).json()["id"]
            for who in (ann, bob, ann)
        ]
        for who, ids in ((ann, [made[2], made[0]]), (bob, [made[1]])):
            assert [
                job["id"] for job in (await house.get("/jobs", headers=who)).json()["jobs"]
            ] == ids
        blocking.hdel(redis_keys.job(made[0]), "owner")
        assert (await house.get(f"/jobs/{made[0]}", headers=ann)).status_code == 404

    async def test_an_idempotency_key_is_ones_own(
        self, house: httpx.AsyncClient, blocking: redis.Redis
    ) -> None:
        """The same word by another starts another job, and says nothing of the first."""
        ann = bearer(blocking)
        bob = bearer(blocking, "bob")
        same = {"idempotency-key": "image-1"}
        first, again, others = [
            (await house.post("/generate", json={"prompt": prompt}, headers=who | same)).json()[
                "id"
            ]
            for prompt, who in (("a", ann), ("a", ann), ("b", bob))
        ]
        assert first == again != others

    async def test_an_image_of_anothers_job_cannot_be_worked_on(
        self, house: httpx.AsyncClient, blocking: redis.Redis
    ) -> None:
        """In the words for one that is not there."""
        ann = bearer(blocking)
        bob = bearer(blocking, "bob")
        job_id = (await house.post("/generate", json=CUBE, headers=ann)).json()["id"]
        file = io.BytesIO()
        Image.new("RGB", (8, 8), "red").save(file, "PNG")
        drawn(blocking, job_id, file.getvalue())
        vary = {"image": {"job": job_id, "index": 0}}
        assert (await house.post("/variations", json=vary, headers=ann)).status_code == 202
        refused = await house.post("/variations", json=vary, headers=bob)
        assert refused.status_code == 422
        assert f"there is no image 0 of a job '{job_id}'" in refused.json()["detail"]

    async def test_routes_that_are_added_are_guarded_too(
        self, redis_server: RedisServer, blocking: redis.Redis
    ) -> None:
        """By a router, and without doing anything for it: the key is wanted, and a {job_id} has to be its own."""
        app = create_app(Settings(redis_url=redis_server.url, api_keys="required"))
        router = APIRouter()

        @router.get("/v1/later/{job_id}")
        async def later(job_id: str) -> str:
            return job_id

        app.include_router(router)
        ann = bearer(blocking)
        bob = bearer(blocking, "bob")
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://house"
        ) as client:
            job_id = (await client.post("/generate", json=CUBE, headers=ann)).json()["id"]
            statuses = [
                (await client.get(f"/v1/later/{job_id}", headers=who)).status_code
                for who in ({}, bob, ann)
            ]
        assert statuses == [401, 404, 200]


class TestRate:
    """So many requests in a time."""

    async def test_of_many_at_once_so_many_as_the_limit_come_in(
        self, serve: Any, blocking: redis.Redis
    ) -> None:
        """Of 20 over two services, 5; whatever they ask. Others are not held up."""
        ann = bearer(blocking, rate="5/hour")
        bob = bearer(blocking, "bob", rate="5/hour")
        async with serve(api_keys="required") as one, serve(api_keys="required") as two:
            answers = await asyncio.gather(
                *((one, two)[at % 2].get("/jobs", headers=ann) for at in range(20))
            )
            assert sorted(answer.status_code for answer in answers) == [200] * 5 + [429] * 15
            assert (await one.get("/jobs", headers=bob)).status_code == 200
            assert (await two.post("/generate", json=CUBE, headers=ann)).status_code == 429
        assert blocking.llen(redis_keys.QUEUE_LIST) == 0

    async def test_the_limit_is_told_on_every_answer(
        self, house: httpx.AsyncClient, blocking: redis.Redis
    ) -> None:
        """Also where the answer is another problem; and over it, when to come again."""
        header = bearer(blocking, rate="2/hour")
        for path, left in (("/jobs", "1"), ("/jobs/nobody", "0")):
            answer = await house.get(path, headers=header)
            assert (answer.headers["ratelimit-limit"], answer.headers["ratelimit-remaining"]) == (
                "2",
                left,
            )
            assert 0 < int(answer.headers["ratelimit-reset"]) <= 3600
        over = await house.get("/jobs", headers=header)
        assert over.status_code == 429
        assert over.headers["content-type"] == "application/problem+json"
        assert (
            0
            < int(over.headers["retry-after"])
            <= 1800
            < int(over.headers["ratelimit-reset"])
            <= 3600
        )
        assert over.headers.get_list("ratelimit-remaining") == ["0"]
        assert "may make 2/hour requests" in over.json()["detail"]
        assert (
            "ratelimit-limit"
            not in (await house.get("/jobs", headers=bearer(blocking, "bob"))).headers
        )

    async def test_who_waits_as_told_is_let_in(
        self, house: httpx.AsyncClient, blocking: redis.Redis
    ) -> None:
        """Retry-After is not too short."""
        header = bearer(blocking, rate="60/hour")
        full = now() + timedelta(
            seconds=59 * 60 + 5
        )  # all 60 were made, the first of them 55 s ago
        blocking.set(redis_keys.rate_limit(id_of(header)), round(full.timestamp() * 1_000_000))
        answer = await house.get("/jobs", headers=header)
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 5
        await asyncio.sleep(int(answer.headers["retry-after"]))
        assert (await house.get("/jobs", headers=header)).status_code == 200

    async def test_counting_does_not_wait_for_the_disk(
        self, house: httpx.AsyncClient, blocking: redis.Redis
    ) -> None:
        """Nothing of it goes into the append-only file, whose every write is waited for."""
        header = bearer(blocking, rate="100/hour")
        before = blocking.info("persistence")["aof_current_size"]
        assert [
            (await house.get("/jobs", headers=header)).headers["ratelimit-remaining"]
            for _ in range(3)
        ] == ["99", "98", "97"]
        assert blocking.info("persistence")["aof_current_size"] == before
        blocking.set("any", 1)
        assert blocking.info("persistence")["aof_current_size"] > before
        assert 0 < blocking.ttl(redis_keys.rate_limit(id_of(header))) <= 108


class TestJobs:
    """So many jobs that wait and run."""

    async def test_of_many_at_once_so_many_as_the_limit_are_accepted(
        self, serve: Any, blocking: redis.Redis
    ) -> None:
        """Of 20 over two services, 5, and those are in the queue: none was lost, none is left of the refused."""
        ann = bearer(blocking, max_jobs=5)
        bob = bearer(blocking, "bob", max_jobs=5)
        async with serve(api_keys="required") as one, serve(api_keys="required") as two:
            answers = await asyncio.gather(
                *((one, two)[at % 2].post("/generate", json=CUBE, headers=ann) for at in range(20))
            )
            assert (await one.post("/generate", json=CUBE, headers=bob)).status_code == 202
        accepted = {answer.json()["id"] for answer in answers if answer.status_code == 202}
        assert len(accepted) == 5
        assert [answer.status_code for answer in answers].count(429) == 15
        assert {
            job_id.decode() for job_id in blocking.lrange(redis_keys.QUEUE_LIST, 0, 4)
        } == accepted
        assert blocking.zcard(redis_keys.listing(id_of(ann))) == 5

    async def test_a_slot_is_free_once_its_job_has_ended_however_it_did(
        self, house: httpx.AsyncClient, blocking: redis.Redis
    ) -> None:
        """Succeeded, failed, cancelled, or gone; and at no other time. A repeat of an accepted request wants none."""
        header = bearer(blocking, max_jobs=1)

        async def post(**more: str) -> httpx.Response:
            return await house.post("/generate", json=CUBE, headers=header | more)

        async def cancel(job_id: str) -> None:
            assert (await house.delete(f"/jobs/{job_id}", headers=header)).status_code == 200

        ends: list[Any] = [
            lambda job_id: asyncio.to_thread(drawn, blocking, job_id),
            lambda job_id: asyncio.to_thread(
                JobRepository(blocking, job_id, 100).fail, "internal", "because"
            ),
            cancel,
            lambda job_id: asyncio.to_thread(blocking.delete, redis_keys.job(job_id)),
        ]
        for at, end in enumerate(ends):
            accepted = await post(**{"idempotency-key": str(at)})
            assert accepted.status_code == 202
            refused = await post()
            assert refused.status_code == 429
            assert "has 1 jobs that wait or run, and may have 1" in refused.json()["detail"]
            assert (await post(**{"idempotency-key": str(at)})).json()["id"] == accepted.json()[
                "id"
            ]
            await end(accepted.json()["id"])
        assert (await post()).status_code == 202
        assert blocking.scard(redis_keys.active_jobs(id_of(header))) == 1

    async def test_a_job_whose_worker_was_killed_holds_its_slot_once(
        self, house: httpx.AsyncClient, blocking: redis.Redis, redis_server: RedisServer
    ) -> None:
        """Until another worker has ended it, and no longer: nothing is counted that the dead one would have had to take back."""
        header = bearer(blocking, max_jobs=1)
        job_id = (await house.post("/generate", json=CUBE, headers=header)).json()["id"]
        program = f"""
import redis, time
from worker.jobs.record import JobRepository
JobRepository(redis.Redis.from_url({redis_server.url!r}), {job_id!r}, 100).start({{}})
print("begun", flush=True)
time.sleep(600)
"""
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": "."},
        )
        assert process.stdout
        assert await asyncio.to_thread(process.stdout.readline) == b"begun\n"
        process.kill()
        process.wait()
        process.stdout.close()
        assert (await house.get(f"/jobs/{job_id}", headers=header)).json()["status"] == "running"
        assert (await house.post("/generate", json=CUBE, headers=header)).status_code == 429
        JobRepository(blocking, job_id, 100).requeue()
        assert (await house.post("/generate", json=CUBE, headers=header)).status_code == 429
        drawn(blocking, job_id)
        assert (await house.post("/generate", json=CUBE, headers=header)).status_code == 202

    async def test_how_long_a_slot_takes_is_told_as_measured(
        self, house: httpx.AsyncClient, blocking: redis.Redis
    ) -> None:
        """By the running job that is nearest to its end; else by the pace of the queue; 30 s where nothing was measured."""
        header = bearer(blocking, max_jobs=2)
        ids = [
            (await house.post("/generate", json=CUBE, headers=header)).json()["id"]
            for _ in range(2)
        ]

        async def told() -> str:
            answer = await house.post("/generate", json=CUBE, headers=header)
            assert answer.status_code == 429
            return answer.headers["retry-after"]

        assert await told() == "30"
        blocking.sadd(redis_keys.WORKERS, "w")
        blocking.set(redis_keys.worker("w"), WorkerHeartbeat(pid=1, slots=2).model_dump_json())
        blocking.hset(redis_keys.MEAN_DURATIONS, redis_keys.mean_duration("any", None), "40.0")
        assert await told() == "40"
        blocking.lrem(redis_keys.QUEUE_LIST, 1, ids[0])
        record = JobRepository(blocking, ids[0], 100)
        record.start({})
        record.update_progress(Progress(stage="decoder", step=1, steps=2, fraction=0.5, eta_seconds=7.2))
        assert await told() == "8"
