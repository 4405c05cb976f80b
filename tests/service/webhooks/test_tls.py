"""Webhooks over TLS: the certificate must be for the URL's host."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
import trustme
from support.service.http_jobs import submit_and_end
from support.service.webhooks import LOCAL, wait_until_delivered

from devtools.redis_server import RedisServer
from service.webhooks import dispatcher

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def tls_server(name: str, authority: trustme.CA) -> AsyncIterator[tuple[int, list[str]]]:
    """Answer 200 with a certificate for `name`. Yields the port, and the names from SNI."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    names = list[str]()
    authority.issue_cert(name).configure_cert(context)
    context.sni_callback = lambda _socket, server_name, _context: names.append(server_name)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    yield server.sockets[0].getsockname()[1], names
    server.close()


@pytest.mark.parametrize(
    ("certified", "outcome"), [("hook.test", "delivered"), ("other.test", "given_up")]
)
async def test_tls_verifies_the_host_name(
    serve: Any,
    redis_server: RedisServer,
    store: redis.asyncio.Redis,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    certified: str,
    outcome: str,
) -> None:
    """And not the checked address that the connection goes to."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setattr(dispatcher, "MAX_ATTEMPTS", 1)
    resolve = asyncio.BaseEventLoop.getaddrinfo

    async def getaddrinfo(loop: Any, host: str, *args: Any, **kwargs: Any) -> Any:
        return await resolve(loop, "127.0.0.1" if host == "hook.test" else host, *args, **kwargs)

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    async with tls_server(certified, authority) as (port, names), serve(**LOCAL) as client:
        await submit_and_end(client, redis_server.url, webhook=f"https://hook.test:{port}/")
        await wait_until_delivered(store)
        metrics = (await client.get("/metrics")).text
    assert names == ["hook.test"]
    assert f'unclip_webhook_attempts_total{{outcome="{outcome}"}} 1.0' in metrics
