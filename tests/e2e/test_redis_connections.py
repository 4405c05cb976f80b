"""Service and worker on a Redis with a password, with TLS and behind Sentinels.

TLS ends in front of Redis, as with stunnel, because the wheel's Redis is built without it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import trustme
from support.queue import EmptyRunner, working

from devtools.ports import free_port
from devtools.redis_server import redis_binary
from devtools.wait import wait_until
from infra.redis import connect, connect_async, wait_for_redis
from service.app import create_app
from service.settings import Settings
from worker.queue.worker import connect_patiently

pytestmark = pytest.mark.anyio
WAIT_S = 120.0
# What docs/operations/redis.md grants.
PERMISSIONS = (
    "resetchannels ~unclip:* ~rq:* &unclip:* &rq:* +@all -@admin -@dangerous "
    "+info +client|setname +client|info +client|list"
)
StartRedis = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def running(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """Run a service and a worker whose jobs succeed at once, and yield a client."""
    wait_for_redis(url)
    connection = connect_patiently(url)
    app = create_app(Settings(redis_url=url))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service.test") as client,
    ):
        with working(connection, EmptyRunner(connection)) as worker:
            yield client
            assert worker.thread.is_alive()
    connection.close()


async def assert_a_job_succeeds(client: httpx.AsyncClient) -> None:
    """Submit a job and wait for its end."""
    answer = await client.post("/generate", json={"prompt": "a"}, headers={"prefer": "wait=100"})
    assert answer.json()["status"] == "succeeded"


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[StartRedis]:
    """Start redis-server with lines of configuration; all are stopped after the test."""
    with ExitStack() as processes:

        def start(port: int, *lines: str, mode: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
            folder = tmp_path / str(port)
            folder.mkdir()
            config = folder / "redis.conf"
            common = [f"port {port}", "bind 127.0.0.1", f"dir {folder}"]
            config.write_text("\n".join([*common, *lines]))
            process = subprocess.Popen(
                [redis_binary(), str(config), *mode], stdout=subprocess.DEVNULL
            )
            processes.callback(process.wait)
            processes.callback(process.kill)
            wait_until(lambda: process.poll() is not None or is_listening(port))
            assert process.poll() is None
            return process

        yield start


async def test_a_user_with_a_password(start_redis: StartRedis) -> None:
    """With no more permissions than documented; the password is escaped in the URL."""
    port = free_port()
    start_redis(port, "user default off", f"user unclip on >s3cr@t/7 {PERMISSIONS}")
    url = f"redis://unclip:s3cr%40t%2F7@127.0.0.1:{port}/0"
    async with running(url) as client:
        await assert_a_job_succeeds(client)
    with connect(url) as other, pytest.raises(redis.exceptions.NoPermissionError):
        other.set("elsewhere", 1)


async def test_a_wrong_password_is_an_error(start_redis: StartRedis) -> None:
    """Of authentication, not of the connection."""
    port = free_port()
    start_redis(port, "requirepass right")
    client = connect_async(f"redis://:wrong@127.0.0.1:{port}/0")
    with pytest.raises(redis.AuthenticationError):
        await client.ping()
    await client.aclose()


@pytest.fixture
def tls(redis_server: Any, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """Forward a TLS port to Redis. Yields the port and the file of its authority."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    port = free_port()
    loop = asyncio.new_event_loop()
    tasks = set()

    async def forward(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            target.write(data)
        target.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", redis_server.port)
        await asyncio.gather(
            forward(reader, inner_writer), forward(inner_reader, writer), return_exceptions=True
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


async def test_tls_with_a_private_authority(tls: tuple[int, Path]) -> None:
    """The URL names its file."""
    port, authority = tls
    async with running(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={authority}") as client:
        await assert_a_job_succeeds(client)


async def test_tls_with_an_unknown_authority_is_an_error(tls: tuple[int, Path]) -> None:
    """Nothing is sent to such a server."""
    client = connect_async(f"rediss://127.0.0.1:{tls[0]}/0")
    with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
        await client.ping()
    await client.aclose()


@pytest.mark.parametrize("is_planned", [False, True])
async def test_work_continues_after_a_failover(start_redis: StartRedis, is_planned: bool) -> None:
    """Without a restart. The Sentinels have their own password, and the first one is down."""
    first = free_port()
    second = free_port()
    sentinel_port = free_port()
    master = start_redis(first, "requirepass s", "masterauth s")
    start_redis(second, "requirepass s", "masterauth s", f"replicaof 127.0.0.1 {first}")
    start_redis(
        sentinel_port,
        "requirepass w",
        f"sentinel monitor m 127.0.0.1 {first} 1",
        "sentinel auth-pass m s",
        "sentinel down-after-milliseconds m 2000",
        "sentinel failover-timeout m 10000",
        mode=("--sentinel",),
    )
    sentinel = redis.Redis(port=sentinel_port, password="w", decode_responses=True)
    wait_until(lambda: has_replica(sentinel))
    addresses = f"127.0.0.1:{free_port()},127.0.0.1:{sentinel_port}"
    async with running(f"redis+sentinel://:s@{addresses}/m/0?sentinel_password=w") as client:
        await assert_a_job_succeeds(client)
        if is_planned:
            wait_until(lambda: value_of(sentinel.execute_command, "SENTINEL FAILOVER m"))
        else:
            master.kill()
        await asyncio.to_thread(wait_until, lambda: is_master(sentinel, second))
        # What the former master accepts before it becomes a replica is lost.
        if is_planned:
            await asyncio.to_thread(wait_until, lambda: role(first) == b"slave")
        await assert_a_job_succeeds(client)
    sentinel.close()


def has_replica(sentinel: redis.Redis) -> bool:
    """Return whether a Sentinel has a quorum and knows the replica."""
    if not value_of(sentinel.execute_command, "SENTINEL CKQUORUM m"):
        return False
    return len(value_of(sentinel.sentinel_slaves, "m") or ()) == 1


def is_master(sentinel: redis.Redis, port: int) -> bool:
    """Return whether the server at a port is the master, by the Sentinel and by itself."""
    address = value_of(sentinel.sentinel_get_master_addr_by_name, "m")
    return bool(address) and address[1] == port and role(port) == b"master"


def role(port: int) -> Any:
    with redis.Redis(port=port, password="s") as server:
        reply = value_of(server.role)
        return reply[0] if reply else None


def value_of(command: Callable[..., Any], *arguments: Any) -> Any:
    """Return the reply to a command, None if it fails."""
    try:
        return command(*arguments)
    except redis.RedisError:
        return None
