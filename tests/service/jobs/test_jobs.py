"""Jobs as the service keeps them, on a real Redis: accepted once, told truly, waited for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import httpx
import pytest
import redis
import redis.asyncio

from contracts import redis_keys
from contracts.jobs import ImageInfo, Progress, WorkerHeartbeat, now
from contracts.operations import GenerateFields
from devtools.redis_server import RedisServer
from service.jobs.repository import Accepted, Jobs
from service.requests.parse import Work
from service.settings import Settings
from worker.jobs.record import JobRepository

pytestmark = pytest.mark.anyio
CUBE = {"prompt": "a red cube", "seed": 5}
HALF = Progress(stage="prior", step=1, steps=2, fraction=0.5)
WHOLE = Progress(stage="decoder", step=6, steps=6, fraction=1.0)


async def as_worker(
    server: RedisServer, job_id: str, act: Callable[[JobRepository], object], after: float = 0
) -> None:
    """Do what a worker does to a job's record, some seconds from now."""

    def work() -> None:
        with redis.Redis.from_url(server.url) as client:
            act(JobRepository(client, job_id, 100))

    await asyncio.sleep(after)
    await asyncio.to_thread(work)


def succeed(record: JobRepository) -> None:
    record.start({"size": 64, "eta": 0.0})
    record.succeed([b"\x89PNG"], [ImageInfo(seed=5, width=64, height=64)], ["cut"], WHOLE)


async def test_a_job_is_accepted_and_lies_in_rqs_queue(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """202, Location, and all fields of a job that waits. In Redis nothing is pickled, and RQ's own books say no prompt."""
    answer = await client.post("/generate", json=CUBE)
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"http://house/jobs/{job['id']}" == job["links"]["self"]
    assert abs((datetime.fromisoformat(job.pop("created_at")) - now()).total_seconds()) < 20
    open_parameters = {
        "size",
        "prior",
        "negative_prompt",
        "sampler",
        "eta",
        "prior_num_inference_steps",
        "decoder_num_inference_steps",
    }
    open_parameters |= {
        "upsampler_num_inference_steps",
        "prior_guidance_scale",
        "decoder_guidance_scale",
    }
    open_parameters |= {"prior_num_candidates", "prior_temperature", "prior_top_p"}
    open_parameters |= {"decoder_guidance_start", "decoder_guidance_stop", "dynamic_threshold"}
    assert job == {
        "id": job["id"],
        "operation": "generate",
        "status": "queued",
        "progress": None,
        "queue_position": 0,
        "priority": 0,
        "eta_seconds": None,
        "parameters": CUBE | {"n": 1} | dict.fromkeys(open_parameters),
        "warnings": [],
        "images": [],
        "animation": None,
        "result": None,
        "error": None,
        "started_at": None,
        "finished_at": None,
        "request_id": answer.headers["x-request-id"],
        "links": {
            "self": f"http://house/jobs/{job['id']}",
            "events": f"http://house/jobs/{job['id']}/events",
        },
    }
    assert await store.lrange(redis_keys.QUEUE_LIST, 0, -1) == [job["id"].encode()]
    rq = await store.hgetall(f"rq:job:{job['id']}")
    assert b"red" not in b"".join(rq.values())
    assert rq[b"timeout"] == b"600"
    assert rq[b"retries_left"] == b"3"


async def test_places_in_the_queue_are_told(client: httpx.AsyncClient) -> None:
    """First come, first served."""
    ids = [(await client.post("/generate", json=CUBE)).json()["id"] for _ in range(3)]
    assert [(await client.get(f"/jobs/{job_id}")).json()["queue_position"] for job_id in ids] == [
        0,
        1,
        2,
    ]


async def test_a_seed_is_drawn_and_told_where_none_is_given(client: httpx.AsyncClient) -> None:
    """So that the image can be drawn again; and 0 is a seed."""
    drawn = [
        (await client.post("/generate", json={"prompt": "a"})).json()["parameters"]["seed"]
        for _ in range(2)
    ]
    assert drawn[0] != drawn[1]
    assert all(0 <= seed < 2**32 - 9 for seed in drawn)
    assert (await client.post("/generate", json=CUBE | {"seed": 0})).json()["parameters"][
        "seed"
    ] == 0


async def test_a_job_is_told_as_it_goes(
    client: httpx.AsyncClient, redis_server: RedisServer
) -> None:
    """Queued, running with progress and resolved parameters, succeeded with images that can be fetched."""
    job_id = (await client.post("/generate", json=CUBE)).json()["id"]
    path = f"/jobs/{job_id}"
    assert (await client.get(f"{path}/images/0.png")).status_code == 404
    await as_worker(
        redis_server,
        job_id,
        lambda record: (record.start({"size": 64, "eta": 0.0}), record.update_progress(HALF)),
    )
    running = (await client.get(path)).json()
    assert running["status"] == "running"
    assert running["progress"] == HALF.model_dump()
    assert running["queue_position"] is None
    assert running["parameters"]["size"] == 64
    assert running["parameters"]["prompt"] == "a red cube"
    assert running["started_at"]
    await as_worker(redis_server, job_id, succeed)
    ended = (await client.get(path)).json()
    assert ended["status"] == "succeeded"
    assert ended["warnings"] == ["cut"]
    assert ended["error"] is None
    assert ended["finished_at"]
    assert ended["images"] == [
        {"seed": 5, "width": 64, "height": 64, "url": f"http://house{path}/images/0.png"}
    ]
    image = await client.get(ended["images"][0]["url"])
    assert image.status_code == 200
    assert image.headers["content-type"] == "image/png"
    assert image.content == b"\x89PNG"
    missing = await client.get(f"{path}/images/1.png")
    assert missing.status_code == 404
    assert "is succeeded and has 1 images; there is none at 1" in missing.json()["detail"]


async def test_a_job_that_is_not_there_is_404(client: httpx.AsyncClient) -> None:
    """And says for how long jobs are kept."""
    for path in ("/jobs/nobody", "/jobs/nobody/images/0.png"):
        answer = await client.get(path)
        assert answer.status_code == 404
        assert "no job 'nobody'. Ended jobs are kept for 24 hours" in answer.json()["detail"]


async def test_links_lead_where_others_reach_the_service(serve: Any) -> None:
    """UNCLIP_PUBLIC_URL, where it is set."""
    async with serve(public_url="https://images.example/unclip/") as client:
        answer = await client.post("/generate", json=CUBE)
        assert (
            answer.headers["location"]
            == f"https://images.example/unclip/jobs/{answer.json()['id']}"
            == answer.json()["links"]["self"]
        )


async def test_a_full_queue_refuses_and_takes_again_once_there_is_room(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """429 with Retry-After; what was refused left nothing behind, not even its Idempotency-Key."""
    for _ in range(3):
        assert (await client.post("/generate", json=CUBE)).status_code == 202
    before = await store.dbsize()
    refused = await client.post("/generate", json=CUBE, headers={"idempotency-key": "k"})
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 0
    assert refused.headers["content-type"] == "application/problem+json"
    assert "3 jobs are waiting" in refused.json()["detail"]
    assert await store.dbsize() == before
    await store.lpop(redis_keys.QUEUE_LIST)
    assert (
        await client.post("/generate", json=CUBE, headers={"idempotency-key": "k"})
    ).status_code == 202


async def test_how_long_a_full_queue_takes_is_told_as_measured(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """By how long jobs run and how many do at once; 30 s where nothing was measured."""
    for _ in range(3):
        await client.post("/generate", json=CUBE)
    assert (await client.post("/generate", json=CUBE)).headers["retry-after"] == "30"
    await store.sadd(redis_keys.WORKERS, "w")
    await store.set(redis_keys.worker("w"), WorkerHeartbeat(pid=1, slots=4).model_dump_json())
    await store.hset(redis_keys.MEAN_DURATIONS, redis_keys.mean_duration("any", None), "50.0")
    assert (await client.post("/generate", json=CUBE)).headers["retry-after"] == "13"


class TestIdempotency:
    """A repeat with the same Idempotency-Key starts nothing."""

    async def test_a_repeat_answers_with_the_first_job(
        self, client: httpx.AsyncClient, store: redis.asyncio.Redis
    ) -> None:
        """Also where the queue is full by then, where fields stand in another order, and where null is written out."""
        key = {"idempotency-key": "mine"}
        first = await client.post("/generate", json={"prompt": "a", "n": 1}, headers=key)
        for _ in range(2):
            await client.post("/generate", json=CUBE)
        for body in (
            {"prompt": "a", "n": 1},
            {"n": 1, "prompt": "a"},
            {"prompt": "a", "size": None},
        ):
            again = await client.post("/generate", json=body, headers=key)
            assert (again.status_code, again.json(), again.headers["location"]) == (
                202,
                first.json(),
                first.headers["location"],
            )
        assert await store.llen(redis_keys.QUEUE_LIST) == 3

    async def test_another_request_under_the_same_key_is_refused(
        self, client: httpx.AsyncClient
    ) -> None:
        """422; another key, or none, starts a job of its own."""
        first = await client.post("/generate", json=CUBE, headers={"idempotency-key": "mine"})
        other = await client.post(
            "/generate", json=CUBE | {"seed": 6}, headers={"idempotency-key": "mine"}
        )
        assert other.status_code == 422
        assert "used for another request" in other.json()["detail"]
        for headers in ({"idempotency-key": "yours"}, {}):
            assert (await client.post("/generate", json=CUBE, headers=headers)).json()[
                "id"
            ] != first.json()["id"]

    async def test_of_many_at_once_one_starts_a_job(
        self, serve: Any, store: redis.asyncio.Redis
    ) -> None:
        """A client that retries fast, or twice: one job."""
        async with serve() as client:
            sent = (
                client.post("/generate", json=CUBE, headers={"idempotency-key": "mine"})
                for _ in range(20)
            )
            answers = await asyncio.gather(*sent)
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert await store.llen(redis_keys.QUEUE_LIST) == 1

    def test_of_fifty_threads_one_starts_a_job(self, redis_server: RedisServer) -> None:
        """Each as a service of its own would: all are told of one job, and one alone says that it is new."""
        stores = [Jobs(Settings(redis_url=redis_server.url)) for _ in range(5)]
        work = Work("generate", GenerateFields(prompt="a red cube"))
        barrier = threading.Barrier(50)

        def accept(at: int) -> Accepted:
            barrier.wait()
            return stores[at % 5].accept(work, "mine", None)

        with ThreadPoolExecutor(50) as pool:
            accepted = list(pool.map(accept, range(50)))
        assert len({one.job_id for one in accepted}) == 1
        assert [one.repeated for one in accepted].count(False) == 1
        with redis.Redis.from_url(redis_server.url) as store:
            assert store.llen(redis_keys.QUEUE_LIST) == 1
            assert len(store.keys("unclip:job:*")) == 1
            assert store.zcard(redis_keys.listing()) == 1

    async def test_a_key_whose_job_has_expired_starts_a_new_one(
        self, client: httpx.AsyncClient, store: redis.asyncio.Redis
    ) -> None:
        """Results may be kept for less than the key is: a repeat must not be told of nothing."""
        first = (
            await client.post("/generate", json=CUBE, headers={"idempotency-key": "mine"})
        ).json()["id"]
        await store.delete(redis_keys.job(first))
        again = await client.post("/generate", json=CUBE, headers={"idempotency-key": "mine"})
        assert again.status_code == 202
        assert again.json()["id"] != first

    async def test_the_key_itself_is_not_stored(
        self, client: httpx.AsyncClient, store: redis.asyncio.Redis
    ) -> None:
        """It may be anything, so only its hash is."""
        await client.post("/generate", json=CUBE, headers={"idempotency-key": "secret"})
        (key,) = [name for name in await store.keys("*") if b"idempotency" in name]
        assert b"secret" not in key
        assert b"secret" not in await store.get(key)

    async def test_a_key_lives_as_long_as_its_job(
        self, client: httpx.AsyncClient, store: redis.asyncio.Redis, redis_server: Any
    ) -> None:
        """Neither goes while the job waits, and both go at once after it ended."""
        job_id = (
            await client.post("/generate", json=CUBE, headers={"idempotency-key": "mine"})
        ).json()["id"]
        (key,) = [name for name in await store.keys("*") if b"idempotency" in name]
        assert await store.ttl(key) == await store.ttl(redis_keys.job(job_id)) == -1
        await as_worker(redis_server, job_id, succeed)
        assert 0 <= await store.ttl(redis_keys.job(job_id)) - await store.ttl(key) <= 1
        assert await store.ttl(key) > 0


class TestWait:
    """`Prefer: wait` holds the answer until the job ended or the time is up."""

    @pytest.fixture
    async def ends(
        self, client: httpx.AsyncClient, store: redis.asyncio.Redis, redis_server: RedisServer
    ) -> Any:
        """Posts with headers, while the job is ended as told beside it."""

        async def post(act: Callable[[JobRepository], object], **headers: str) -> httpx.Response:
            posted = asyncio.create_task(client.post("/generate", json=CUBE, headers=headers))
            while not (waiting := await store.lrange(redis_keys.QUEUE_LIST, 0, -1)):
                await asyncio.sleep(0.01)
            await as_worker(redis_server, waiting[0].decode(), act, after=0.2)
            return await posted

        return post

    async def test_the_ended_job_is_the_answer(self, ends: Any) -> None:
        """200, at once when it ends, with the preference that was applied."""
        answer = await ends(succeed, prefer="wait=20")
        assert answer.status_code == 200
        assert answer.json()["status"] == "succeeded"
        assert answer.headers["preference-applied"] == "wait=20"
        assert answer.headers["location"].endswith(answer.json()["id"])
        assert answer.elapsed.total_seconds() < 15

    async def test_the_image_is_the_answer_where_it_is_asked_for(self, ends: Any) -> None:
        """Accept: image/png and one image: the PNG itself, and Location says where its job is."""
        answer = await ends(succeed, prefer="wait=20", accept="image/png")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "image/png"
        assert answer.content == b"\x89PNG"
        assert "/jobs/" in answer.headers["location"]
        assert {"Accept", "Prefer"} <= set(answer.headers["vary"].split(", "))

    @pytest.mark.parametrize(("kind", "status"), [("invalid", 422), ("internal", 500)])
    async def test_a_failed_job_has_no_image(self, ends: Any, kind: Any, status: int) -> None:
        """As PNG it is a problem, with the job's own reason."""
        answer = await ends(
            lambda record: record.fail(kind, "because"), prefer="wait=20", accept="image/png"
        )
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"] == "because"
        assert "/jobs/" in answer.headers["location"]

    async def test_a_failed_job_is_told_as_json(self, ends: Any) -> None:
        """200: the request was answered, the job is what failed."""
        answer = await ends(lambda record: record.fail("internal", "because"), prefer="wait=20")
        assert answer.status_code == 200
        assert answer.json()["status"] == "failed"
        assert answer.json()["error"]["detail"] == "because"

    @pytest.mark.parametrize("accept", ["application/json", "image/png"])
    async def test_a_job_that_does_not_end_in_time_is_202_as_json(
        self, client: httpx.AsyncClient, accept: str
    ) -> None:
        """After the time and not before."""
        answer = await client.post(
            "/generate", json=CUBE, headers={"prefer": "wait=0.5", "accept": accept}
        )
        assert answer.status_code == 202
        assert answer.json()["status"] == "queued"
        assert answer.headers["preference-applied"] == "wait=0.5"
        assert 0.5 <= answer.elapsed.total_seconds() < 15

    async def test_nobody_waits_longer_than_the_service_allows(self, serve: Any) -> None:
        """And what was granted is told."""
        async with serve(max_wait=0.2) as client:
            answer = await client.post("/generate", json=CUBE, headers={"prefer": "wait=600"})
        assert answer.status_code == 202
        assert answer.headers["preference-applied"] == "wait=0.2"

    async def test_a_wait_in_a_second_prefer_header_counts(self, client: httpx.AsyncClient) -> None:
        """RFC 7240 lets a header be split."""
        answer = await client.post(
            "/generate", json=CUBE, headers=[("prefer", "respond-async"), ("prefer", "wait=0")]
        )
        assert answer.headers["preference-applied"] == "wait=0"

    async def test_several_images_are_no_png(
        self, client: httpx.AsyncClient, store: redis.asyncio.Redis
    ) -> None:
        """406 before anything is enqueued."""
        answer = await client.post(
            "/generate", json=CUBE | {"n": 2}, headers={"prefer": "wait=1", "accept": "image/png"}
        )
        assert answer.status_code == 406
        assert "this makes 2" in answer.json()["detail"]
        assert await store.llen(redis_keys.QUEUE_LIST) == 0

    async def test_a_wait_outlives_a_restart_of_redis(
        self, serve: Any, redis_server: RedisServer
    ) -> None:
        """The client is told of the end, not of the trouble."""
        async with serve() as client:
            posted = asyncio.create_task(
                client.post("/generate", json=CUBE, headers={"prefer": "wait=20"})
            )
            async with redis.asyncio.Redis.from_url(redis_server.url) as store:
                while not (waiting := await store.lrange(redis_keys.QUEUE_LIST, 0, -1)):
                    await asyncio.sleep(0.01)
            await asyncio.to_thread(redis_server.stop)
            await asyncio.sleep(1)
            await asyncio.to_thread(redis_server.start)
            await as_worker(redis_server, waiting[0].decode(), succeed)
            answer = await posted
        assert answer.status_code == 200
        assert answer.json()["status"] == "succeeded"

    async def test_a_wait_that_redis_does_not_outlive_says_where_the_job_is(
        self, serve: Any, redis_server: RedisServer
    ) -> None:
        """503, and as the job is accepted, its Location: who asks there does not draw twice."""
        async with serve() as client:
            posted = asyncio.create_task(
                client.post("/generate", json=CUBE, headers={"prefer": "wait=1.5"})
            )
            await asyncio.sleep(0.5)
            await asyncio.to_thread(redis_server.stop)
            answer = await posted
            assert answer.status_code == 503
            assert "is accepted" in answer.json()["detail"]
            assert answer.headers["retry-after"]
            await asyncio.to_thread(redis_server.start)
            assert (await client.get(answer.headers["location"])).json()["status"] == "queued"


async def test_many_may_wait_at_once(
    serve: Any, store: redis.asyncio.Redis, redis_server: RedisServer
) -> None:
    """A hundred waiters, one by one let go; a request beside them is answered at once."""
    async with serve() as client:
        posts = [
            asyncio.create_task(client.post("/generate", json=CUBE, headers={"prefer": "wait=25"}))
            for _ in range(100)
        ]
        while await store.llen(redis_keys.QUEUE_LIST) < 100:
            await asyncio.sleep(0.05)
        beside = await client.get("/healthz")
        ids = [job_id.decode() for job_id in await store.lrange(redis_keys.QUEUE_LIST, 0, -1)]

        def end() -> None:
            with redis.Redis.from_url(redis_server.url) as client:
                for job_id in ids:
                    succeed(JobRepository(client, job_id, 100))

        thread = threading.Thread(target=end)
        thread.start()
        answers = await asyncio.gather(*posts)
        thread.join()
    assert beside.elapsed.total_seconds() < 10
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["id"] for answer in answers} == set(ids)
