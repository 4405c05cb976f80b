"""Redis by URL, with passwords, by TLS and by way of Sentinels: the service accepts a job, a worker does it, the service tells.

The task draws nothing here. TLS ends before Redis, as with stunnel, since the wheel's Redis is built without.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import trustme
from pydantic import TypeAdapter, ValidationError

from contracts.jobs import Progress
from contracts.operations import GenerateFields
from contracts.redis_url import RedisUrl, parse_sentinels, redact_credentials
from devtools.ports import free_port
from devtools.redis_server import redis_binary
from devtools.wait import wait_until
from infra.redis import wait_for_redis
from service.jobs.repository import Jobs
from service.requests.parse import Work
from service.settings import Settings
from worker.jobs.record import JobRepository
from worker.queue.worker import ThreadWorker, connect

pytestmark = pytest.mark.anyio
WAIT_S = 120.0
WHOLE = Progress(stage="text", step=1, steps=1, fraction=1.0)


class InThread(ThreadWorker):
    """A worker in a thread of the test; signals are for processes, so here a flag stops it."""

    def _install_signal_handlers(self) -> None:
        pass


@contextmanager
def working(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A worker whose task succeeds at once."""
    wait_for_redis(url)
    connection = connect(url)

    def draw(job_id: str) -> None:
        record = JobRepository(connection, job_id, 100)
        assert record.start({})
        assert record.succeed([], [], [], WHOLE)

    monkeypatch.setitem(sys.modules, "worker.jobs.runner", SimpleNamespace(draw=draw))
    worker = InThread(connection, slots=2, result_ttl=100)
    thread = threading.Thread(target=worker.work, kwargs={"logging_level": "WARNING"})
    thread.start()
    yield
    assert thread.is_alive()  # it went on, whatever happened
    worker._stop_requested = True
    thread.join(WAIT_S)
    assert not thread.is_alive()
    connection.close()


async def drawn(jobs: Jobs) -> bool:
    """A job goes from the service to the worker and back."""
    work = Work("generate", GenerateFields(prompt="a"), {}, None)
    accepted = await asyncio.to_thread(jobs.accept, work, None, None)
    return (
        await jobs.wait(accepted.job_id, WAIT_S)
        and (await jobs.find(accepted.job_id, "http://house")).status == "succeeded"
    )


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start redis-server with these words of a configuration; all are ended with the test."""
    with ExitStack() as pipeline:

        def begin(port: int, *lines: str, mode: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
            folder = tmp_path / str(port)
            folder.mkdir()
            config = folder / "redis.conf"
            config.write_text(
                "\n".join([f"port {port}", "bind 127.0.0.1", f"dir {folder}", *lines])
            )
            process = subprocess.Popen(
                [redis_binary(), str(config), *mode], stdout=subprocess.DEVNULL
            )
            pipeline.callback(process.wait)
            pipeline.callback(process.kill)
            wait_until(lambda: process.poll() is not None or _answers(port))
            assert process.poll() is None  # what it was told would not do
            return process

        yield begin


async def test_a_user_with_a_password_and_no_other(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of Redis' access control lists, with no more rights than the README says; characters of URLs in the password are escaped."""
    rights = "resetchannels ~unclip:* ~rq:* &unclip:* &rq:* +@all -@admin -@dangerous +info +client|setname +client|info +client|list"
    port = free_port()
    start(port, "user default off", f"user unclip on >geh@im/7 {rights}")
    url = f"redis://unclip:geh%40im%2F7@127.0.0.1:{port}/0"
    with working(url, monkeypatch):
        jobs = Jobs(Settings(redis_url=url))
        assert await drawn(jobs)
        await jobs.close()
    with connect(url) as other, pytest.raises(redis.exceptions.NoPermissionError):
        other.set("elsewhere", 1)
    stranger = Jobs(Settings(redis_url=f"redis://unclip:wrong@127.0.0.1:{port}/0"))
    with pytest.raises(redis.AuthenticationError):
        await stranger.redis.ping()
    await stranger.close()


@pytest.fixture
def tls(redis_server: Any, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A port that speaks TLS and leads to Redis, and the file of the authority that vouches for it."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    port = free_port()
    loop = asyncio.new_event_loop()
    tasks = set()

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            target.write(data)
        target.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", redis_server.port)
        await asyncio.gather(
            pump(reader, inner_writer), pump(inner_reader, writer), return_exceptions=True
        )

    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", port, ssl=context))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield port, tmp_path / "ca.pem"

    async def end() -> None:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run_coroutine_threadsafe(end(), loop).result(WAIT_S)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


async def test_tls_with_an_authority_of_one_s_own(
    tls: tuple[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named in the URL; a server that no known authority vouches for is not spoken to."""
    port, authority = tls
    url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={authority}"
    with working(url, monkeypatch):
        jobs = Jobs(Settings(redis_url=url))
        assert await drawn(jobs)
        await jobs.close()
    unknown = Jobs(Settings(redis_url=f"rediss://127.0.0.1:{port}/0"))
    with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
        await unknown.redis.ping()
    await unknown.close()


@pytest.mark.parametrize("how", ["killed", "told to step down"])
async def test_after_a_failover_the_work_goes_on_at_the_new_master(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Service and worker as they are; Sentinels with a password of their own, the first of which is away."""
    first = free_port()
    second = free_port()
    watch = free_port()
    master = start(first, "requirepass s", "masterauth s")
    start(second, "requirepass s", "masterauth s", f"replicaof 127.0.0.1 {first}")
    watched = [
        f"monitor m 127.0.0.1 {first} 1",
        "auth-pass m s",
        "down-after-milliseconds m 2000",
        "failover-timeout m 10000",
    ]
    start(watch, "requirepass w", *(f"sentinel {line}" for line in watched), mode=("--sentinel",))
    sentinel = redis.Redis(port=watch, password="w", decode_responses=True)
    wait_until(
        lambda: _quiet(
            lambda: (
                sentinel.execute_command("SENTINEL CKQUORUM m")
                and len(sentinel.sentinel_slaves("m")) == 1
            )
        )
    )
    url = f"redis+sentinel://:s@127.0.0.1:{free_port()},127.0.0.1:{watch}/m/0?sentinel_password=w"
    jobs = Jobs(Settings(redis_url=url))
    with working(url, monkeypatch):
        assert await drawn(jobs)
        if how == "killed":
            master.kill()
        else:
            wait_until(lambda: _quiet(lambda: sentinel.execute_command("SENTINEL FAILOVER m")))
        await asyncio.to_thread(
            wait_until, lambda: sentinel.sentinel_get_master_addr_by_name("m")[1] == second
        )
        await asyncio.to_thread(wait_until, lambda: _role(second) == b"master")
        if how != "killed":  # what it accepts as a master still is lost
            await asyncio.to_thread(wait_until, lambda: _role(first) == b"slave")
        assert await drawn(jobs)
    await jobs.close()
    sentinel.close()


def _role(port: int) -> Any:
    with redis.Redis(port=port, password="s") as server:
        return _quiet(lambda: server.role()[0])


def _quiet(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except redis.RedisError:
        return None


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost", "Input should be a valid URL"),
        ("http://localhost", "URL scheme should be 'redis' or 'rediss'"),
        (
            "redis+sentinel://a,b",
            "what they call the master: redis+sentinel://host:26379,host:26379/mymaster/0",
        ),
        ("redis+sentinel://a:b/m", "Port could not be cast to integer value as 'b'"),
        (
            "redis://a?ssl_ca_certs=/b",
            "there is no option 'ssl_ca_certs'; with redis:// there are none",
        ),
        ("rediss://a?ssl_ca_cert=/b", "there is no option 'ssl_ca_cert'; there are ssl_ca_certs, "),
    ],
)
def test_a_url_that_will_not_do_is_refused_with_what_would(url: str, message: str) -> None:
    """At the start, and not at the first connection."""
    with pytest.raises(ValidationError, match=message.replace("+", r"\+").replace("?", r"\?")):
        TypeAdapter(RedisUrl).validate_python(url)


def test_sentinels_are_read_from_a_url() -> None:
    """Their port and the database are the customary ones unless said; of a plain URL there are none."""
    found = parse_sentinels("rediss+sentinel://u:p@a:1,b,[::1]/mine?ssl_ca_certs=/c")
    assert found is not None
    assert found.addresses == [("a", 1), ("b", 26379), ("::1", 26379)]
    assert found.master == "mine"
    assert found.url == "rediss://u:p@master/0?ssl_ca_certs=/c"
    assert parse_sentinels("redis://a/0") is None


def test_passwords_of_urls_do_not_come_into_logs() -> None:
    """Neither the server's nor the Sentinels'."""
    assert (
        redact_credentials("got 'redis+sentinel://u:p@a,b/m?sentinel_password=s'")
        == "got 'redis+sentinel://…a,b/m?sentinel_password=…'"
    )
