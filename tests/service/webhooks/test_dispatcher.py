"""Webhooks on their way, to a real HTTP server on 127.0.0.1: signed, tried again, never lost with their sender."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
import redis
import redis.asyncio
import trustme
from standardwebhooks import Webhook as Verifier

from contracts import redis_keys
from contracts.jobs import ImageInfo, Progress
from devtools.ports import free_port
from devtools.redis_server import RedisServer
from service.jobs import index
from service.jobs.repository import Jobs
from service.settings import Settings
from service.webhooks import dispatcher
from worker.jobs.record import JobRecord

pytestmark = pytest.mark.anyio
SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + "A" * 44 + "AAAA"
ON_THIS_MACHINE: dict[str, Any] = {"webhook_hosts": "127.0.0.1,*.test", "webhook_secret": SECRET}
ON_THIS_MACHINE |= {"webhook_http": True, "webhook_private": True}
WAIT_S = 120.0


class Receiver(ThreadingHTTPServer):
    """Takes webhooks, and answers each with what `answers` says next; with 200 once it says no more."""

    daemon_threads = True

    def __init__(self, *answers: int | Callable[[], int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = list(answers)
        self.got = list[tuple[dict[str, str], bytes]]()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/hook?of=me"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    async def has(self, count: int) -> None:
        """Wait until it got so many."""
        await until(lambda: len(self.got) >= count)


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append(
            ({name.lower(): value for name, value in self.headers.items()} | {"": self.path}, body)
        )
        answer = self.server.answers.pop(0) if self.server.answers else 200
        self.send_response(answer if isinstance(answer, int) else answer())
        self.send_header("location", "/elsewhere")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receive() -> Iterator[Callable[..., Receiver]]:
    """Receivers that are closed in the end."""
    made: list[Receiver] = []

    def make(*answers: int | Callable[[], int]) -> Receiver:
        made.append(Receiver(*answers))
        return made[-1]

    yield make
    for receiver in made:
        receiver.shutdown()
        receiver.server_close()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "POLL_S", 0.05)
    monkeypatch.setattr(dispatcher, "FIRST_PAUSE_S", 0.01)


async def until(true: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := true()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    return found


async def nothing_left(store: redis.asyncio.Redis) -> None:
    """Wait until the queue of deliveries is gone, its counts with it."""
    deadline = time.monotonic() + WAIT_S
    while await store.exists(redis_keys.WEBHOOKS, redis_keys.WEBHOOK_TRIES):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def ended(
    client: httpx.AsyncClient, server: RedisServer, act: str = "succeed", **body: Any
) -> str:
    """A job that a worker ended; its id."""
    answer = await client.post("/generate", json={"prompt": "a red cube", "seed": 5} | body)
    assert answer.status_code == 202, answer.text
    job_id = str(answer.json()["id"])

    def work() -> None:
        with redis.Redis.from_url(server.url) as connection:
            record = JobRecord(connection, job_id, 100)
            record.start({"size": 64})
            if act == "succeed":
                image = ImageInfo(seed=5, width=64, height=64)
                whole = Progress(stage="decoder", step=6, steps=6, fraction=1.0)
                record.succeed([b"\x89PNG"], [image], [], whole)
            elif act == "fail":
                record.fail("internal", "because")

    await asyncio.to_thread(work)
    return job_id


async def test_the_end_is_told_signed(
    serve: Any, redis_server: RedisServer, receive: Any, store: redis.asyncio.Redis
) -> None:
    """Once, as GET tells the job, in a way that the scheme's own library verifies; by either secret while they change."""
    receiver = receive()
    async with serve(
        **ON_THIS_MACHINE | {"webhook_secret": f"{SECRET} {OTHER}"},
        public_url="https://images.example",
    ) as client:
        job_id = await ended(client, redis_server, webhook=receiver.url)
        await receiver.has(1)
        await nothing_left(store)
        told = (await client.get(f"/jobs/{job_id}")).json()
        metrics = (await client.get("/metrics")).text
    ((headers, body),) = receiver.got
    for secret in (SECRET, OTHER):
        assert Verifier(secret).verify(body, headers) == told
    with pytest.raises(Exception, match="No matching signature"):
        Verifier(SECRET).verify(body.replace(b"succeeded", b"failed"), headers)
    assert told["status"] == "succeeded"
    assert told["images"][0]["url"].startswith("https://images.example/jobs/")
    assert headers["webhook-id"] == f"msg_{job_id}_succeeded"
    assert headers[""] == "/hook?of=me"
    assert headers["content-type"] == "application/json"
    assert headers["host"] == receiver.url.split("/")[2]
    assert 'unclip_webhook_attempts_total{outcome="delivered"} 1.0' in metrics
    assert "webhook" not in told["parameters"]


async def test_what_is_wanted_is_told_and_nothing_else(
    serve: Any, redis_server: RedisServer, receive: Any, store: Any
) -> None:
    """The start too where it is asked for; a cancelled job; and of the events left out, none."""
    receiver = receive()
    async with serve(**ON_THIS_MACHINE) as client:
        both = await ended(
            client,
            redis_server,
            webhook=receiver.url,
            webhook_events=["started", "failed"],
            act="fail",
        )
        await ended(client, redis_server, webhook=receiver.url, webhook_events=["failed"])
        await ended(client, redis_server)
        waits = await ended(client, redis_server, webhook=receiver.url, act="none")
        await client.delete(f"/jobs/{waits}")
        await receiver.has(3)
        await nothing_left(store)
    ids = {headers["webhook-id"]: json.loads(body)["status"] for headers, body in receiver.got}
    assert set(ids) == {f"msg_{both}_started", f"msg_{both}_failed", f"msg_{waits}_cancelled"}
    assert ids[f"msg_{both}_failed"] == "failed"
    assert ids[f"msg_{waits}_cancelled"] == "cancelled"


async def test_a_receiver_that_fails_is_tried_again(
    serve: Any, redis_server: RedisServer, receive: Any, store: Any
) -> None:
    """A redirect is a failure too, and not followed. The id stays, so that the receiver knows it has seen it."""
    receiver = receive(500, 307)
    async with serve(**ON_THIS_MACHINE) as client:
        await ended(client, redis_server, webhook=receiver.url)
        await receiver.has(3)
        await nothing_left(store)
    assert len({(headers["webhook-id"], headers[""], body) for headers, body in receiver.got}) == 1
    assert receiver.got[0][0][""] == "/hook?of=me"


@pytest.mark.parametrize(("answers", "tries"), [([500] * 20, dispatcher.TRIES), ([410], 1)])
async def test_it_ends_some_day(
    serve: Any,
    redis_server: RedisServer,
    receive: Any,
    store: Any,
    monkeypatch: pytest.MonkeyPatch,
    answers: list[int],
    tries: int,
) -> None:
    """After nine attempts, or where the receiver says that it is gone."""
    monkeypatch.setattr(dispatcher, "pause", lambda tries: 0.0)
    receiver = receive(*answers)
    async with serve(**ON_THIS_MACHINE) as client:
        await ended(client, redis_server, webhook=receiver.url)
        await nothing_left(store)
    assert len(receiver.got) == tries


async def test_nothing_is_sent_of_a_job_that_is_gone(
    serve: Any, redis_server: RedisServer, receive: Any, store: Any
) -> None:
    """Nor is anything of it left in the queue."""
    receiver = receive()
    await store.zadd(redis_keys.WEBHOOKS, {"gone:succeeded": 0})
    async with serve(**ON_THIS_MACHINE):
        await nothing_left(store)
    assert receiver.got == []


async def test_a_delivery_is_one_senders_at_a_time(
    serve: Any, redis_server: RedisServer, receive: Any, store: Any
) -> None:
    """Three services, thirty jobs: each is told once."""
    receiver = receive()
    async with (
        serve(**ON_THIS_MACHINE) as client,
        serve(**ON_THIS_MACHINE),
        serve(**ON_THIS_MACHINE),
    ):
        ids = [await ended(client, redis_server, webhook=receiver.url) for _ in range(30)]
        await nothing_left(store)
    assert sorted(headers["webhook-id"] for headers, _ in receiver.got) == sorted(
        f"msg_{job_id}_succeeded" for job_id in ids
    )


async def test_a_slow_receiver_holds_nobody_up(
    serve: Any, redis_server: RedisServer, receive: Any, store: Any
) -> None:
    """An attempt has its time, and others go on beside it."""
    hold = threading.Event()
    slow = receive(lambda: hold.wait(WAIT_S) and 500)
    quick = receive()
    async with serve(**ON_THIS_MACHINE, webhook_timeout=2.0) as client:
        await ended(client, redis_server, webhook=slow.url)
        await slow.has(1)
        await ended(client, redis_server, webhook=quick.url)
        await quick.has(1)
        await slow.has(2)  # tried again, though the first attempt was never answered
        hold.set()
        await nothing_left(store)


async def test_a_sender_that_is_killed_loses_nothing(
    redis_server: RedisServer, receive: Any, store: Any, serve: Any
) -> None:
    """A service is killed while its receiver thinks; another one sends again once the lease is over."""
    receiver = receive(lambda: time.sleep(60) or 500)
    async with serve(
        **ON_THIS_MACHINE
    ) as client:  # takes the job in, and has sent nothing when it stops
        job_id = (
            await client.post("/generate", json={"prompt": "a", "webhook": receiver.url})
        ).json()["id"]
    settings = {f"UNCLIP_{name.upper()}": str(value) for name, value in ON_THIS_MACHINE.items()}
    settings |= {
        "UNCLIP_REDIS_URL": redis_server.url,
        "UNCLIP_PORT": str(free_port()),
        "UNCLIP_WEBHOOK_TIMEOUT": "1.5",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "service"], env=os.environ | settings, stderr=subprocess.DEVNULL
    )
    try:
        with redis.Redis.from_url(redis_server.url) as connection:
            assert await asyncio.to_thread(
                JobRecord(connection, job_id, 100).fail, "internal", "because"
            )
        await receiver.has(1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert await store.zcard(redis_keys.WEBHOOKS) == 1
    async with serve(**ON_THIS_MACHINE):
        await receiver.has(2)
        await nothing_left(store)
    assert {headers["webhook-id"] for headers, _ in receiver.got} == {f"msg_{job_id}_failed"}


@asynccontextmanager
async def behind_tls(name: str, authority: trustme.CA) -> AsyncIterator[tuple[int, list[str]]]:
    """A server with a certificate for this name, which answers 200: its port, and the names it was asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    asked = list[str]()
    authority.issue_cert(name).configure_cert(context)
    context.sni_callback = lambda _socket, server_name, _context: asked.append(server_name)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    yield server.sockets[0].getsockname()[1], asked
    server.close()


@pytest.mark.parametrize(("certified", "delivered"), [("hook.test", True), ("other.test", False)])
async def test_the_name_is_what_tls_verifies(
    serve: Any,
    redis_server: RedisServer,
    store: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
    certified: str,
    delivered: bool,
) -> None:
    """And not the address that the connection goes to."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setattr(dispatcher, "TRIES", 1)
    found = asyncio.BaseEventLoop.getaddrinfo

    async def getaddrinfo(loop: Any, host: str, *args: Any, **kwargs: Any) -> Any:
        return await found(loop, "127.0.0.1" if host == "hook.test" else host, *args, **kwargs)

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    async with (
        behind_tls(certified, authority) as (port, asked),
        serve(**ON_THIS_MACHINE) as client,
    ):
        await ended(client, redis_server, webhook=f"https://hook.test:{port}/")
        await nothing_left(store)
        outcomes = (await client.get("/metrics")).text
    assert asked == ["hook.test"]
    assert (
        f'unclip_webhook_attempts_total{{outcome="{"delivered" if delivered else "given_up"}"}} 1.0'
        in outcomes
    )


@pytest.mark.parametrize(
    ("url", "settings", "said"),
    [
        (
            "https://hook.test/",
            {"webhook_hosts": ""},
            "this service calls none; its operator may name hosts in UNCLIP_WEBHOOK_HOSTS",
        ),
        (
            "http://hook.test/",
            {"webhook_http": False},
            "it begins with http://, and this service calls https only",
        ),
        (
            "https://elsewhere.example/",
            {},
            "'elsewhere.example' is none of the hosts that this service calls: 127.0.0.1, *.test",
        ),
        ("https://hook.test.evil.example/", {}, "is none of the hosts"),
        ("https://evil.example/?hook.test", {}, "is none of the hosts"),
        ("https://evil.example#.test", {}, "is none of the hosts"),
        ("https://user@hook.test/", {}, "it holds a user or a password"),
        ("ftp://hook.test/", {}, "URL scheme should be 'http' or 'https'"),
        ("file:///etc/passwd", {}, "URL scheme should be 'http' or 'https'"),
        ("hook.test", {}, "valid URL"),
        (
            "http://127.0.0.1/",
            {"webhook_private": False},
            "127.0.0.1 is not called: it is in no public network",
        ),
        ("http://2130706433/", {"webhook_private": False}, "127.0.0.1 is not called"),
        ("http://0177.1/", {"webhook_private": False}, "127.0.0.1 is not called"),
        (
            "http://169.254.169.254/latest/",
            {"webhook_hosts": "*"},
            "it is link-local, or where a cloud tells machines their secrets",
        ),
        ("http://[::ffff:a9fe:a9fe]/", {"webhook_hosts": "*"}, "it is link-local, or where"),
        (
            "http://[::1]/",
            {"webhook_hosts": "*", "webhook_private": False},
            "it is in no public network",
        ),
        ("http://0.0.0.0/", {"webhook_hosts": "*"}, "it is no address of one machine"),
    ],
)
async def test_a_webhook_that_is_not_called_is_refused_at_once(
    serve: Any, store: redis.asyncio.Redis, url: str, settings: dict[str, Any], said: str
) -> None:
    """422 with the reason, and no job."""
    async with serve(**ON_THIS_MACHINE | settings) as client:
        answer = await client.post("/generate", json={"prompt": "a", "webhook": url})
    assert answer.status_code == 422
    assert "webhook: " in answer.json()["detail"]
    assert said in answer.json()["detail"]
    assert await store.keys("*") == []


async def test_a_name_that_leads_inside_is_not_called(
    serve: Any, redis_server: RedisServer, receive: Any, store: Any
) -> None:
    """Its address is known only when it is called; then nothing is sent, and it is not tried again."""
    receiver = receive()
    async with serve(
        **ON_THIS_MACHINE | {"webhook_hosts": "localhost", "webhook_private": False}
    ) as client:
        await ended(client, redis_server, webhook=receiver.url.replace("127.0.0.1", "localhost"))
        await nothing_left(store)
        assert (
            'unclip_webhook_attempts_total{outcome="refused"} 1.0'
            in (await client.get("/metrics")).text
        )
    assert receiver.got == []


async def test_what_was_allowed_once_is_not_for_ever(
    serve: Any, redis_server: RedisServer, receive: Any, store: Any
) -> None:
    """A host that was taken off the list is not called for jobs that were accepted before."""
    receiver = receive()
    async with serve(**ON_THIS_MACHINE) as client:
        job_id = (
            await client.post("/generate", json={"prompt": "a", "webhook": receiver.url})
        ).json()["id"]
    with redis.Redis.from_url(redis_server.url) as connection:
        await asyncio.to_thread(JobRecord(connection, job_id, 100).fail, "internal", "because")
    async with serve():
        await nothing_left(store)
    assert receiver.got == []


async def test_the_pauses_grow_and_differ() -> None:
    """Nine attempts take hours and not days."""
    dispatcher.FIRST_PAUSE_S = 5.0
    pauses = [[dispatcher.pause(tries) for tries in range(1, dispatcher.TRIES)] for _ in range(2)]
    assert pauses[0] != pauses[1]
    assert all(3600 < sum(each) < 8 * 3600 for each in pauses)
    assert pauses[0] == sorted(pauses[0])
    assert 3.75 <= pauses[0][0] <= 6.25


async def test_nothing_is_left_when_all_has_expired(
    serve: Any, redis_server: RedisServer, receive: Any, store: Any
) -> None:
    """Of job, key, index and webhook; RQ's own books have their own times."""
    receiver = receive()
    async with serve(**ON_THIS_MACHINE) as client:
        answer = await client.post(
            "/generate",
            json={"prompt": "a", "webhook": receiver.url},
            headers={"idempotency-key": "mine"},
        )
        job_id = answer.json()["id"]
        with redis.Redis.from_url(redis_server.url) as connection:
            await asyncio.to_thread(JobRecord(connection, job_id, 1).fail, "internal", "because")
        await receiver.has(1)
        await nothing_left(store)
        await asyncio.sleep(1.5)
        await index.clear(store, 0)
    ours = set(await store.keys("unclip:*")) - {
        redis_keys.OUTCOMES.encode(),
        redis_keys.MEAN_DURATIONS.encode(),
    }
    assert ours == set()


async def test_jobs_know_their_webhooks_but_do_not_tell(
    serve: Any, redis_server: RedisServer, store: Any
) -> None:
    """The URL is between the client and its receiver; images carry the request and must not carry it."""
    async with serve(**ON_THIS_MACHINE) as client:
        job = (
            await client.post(
                "/generate", json={"prompt": "a", "webhook": "https://hook.test/secret"}
            )
        ).json()
    assert "hook.test" not in json.dumps(job)
    recorded = await store.hgetall(redis_keys.job(job["id"]))
    assert b"hook.test" in recorded.pop(b"webhook")
    assert b"hook.test" not in b"".join(recorded.values())
    jobs = Jobs(Settings(redis_url=redis_server.url))
    assert (await jobs.find(job["id"], "http://house")).status == "queued"
    await jobs.close()
