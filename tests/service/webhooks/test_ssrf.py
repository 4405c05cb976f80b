"""What the service may call: addresses in all their spellings, and names that lead to them."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address
from typing import Any

import pytest

from service.webhooks.ssrf import CheckedNetwork, RefusedError, refusal, resolve

pytestmark = pytest.mark.anyio
PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "::1",
    "fd12::1",
    "fec0::1",
    "192.0.2.1",
    "198.18.0.1",
]
PRIVATE += [
    "::ffff:127.0.0.1",
    "::ffff:10.1.2.3",
    "::127.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2002:c0a8:101::1",
]
NEVER = [
    "0.0.0.0",
    "::",
    "224.0.0.1",
    "ff02::1",
    "169.254.169.254",
    "169.254.1.1",
    "fe80::1",
    "fe80::1%eth0",
]
NEVER += [
    "::ffff:169.254.169.254",
    "64:ff9b::169.254.169.254",
    "2002:a9fe:a9fe::",
    "::169.254.169.254",
]
NEVER += [
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "fd00:ec2::254",
    "::ffff:168.63.129.16",
]
PUBLIC = [
    "93.184.215.14",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2002:808:808::1",
]


def found(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Let names resolve to these addresses, one answer after the other; gives the names asked for."""
    asked = []
    left = list(answers)

    async def getaddrinfo(loop: Any, host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in (left.pop(0) if len(left) > 1 else left[0])
        ]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_private_wants_the_setting(address: str) -> None:
    """Loopback, private and reserved networks, also where IPv6 carries them."""
    assert refusal(ip_address(address), private=False)
    assert refusal(ip_address(address), private=True) is None


@pytest.mark.parametrize("address", NEVER)
def test_some_addresses_are_never_called(address: str) -> None:
    """Metadata, link-local, multicast and none, whatever the setting."""
    assert refusal(ip_address(address), private=False)
    assert refusal(ip_address(address), private=True)


@pytest.mark.parametrize("address", PUBLIC)
def test_the_public_is_called(address: str) -> None:
    """Also where IPv6 carries it."""
    assert refusal(ip_address(address), private=False) is None


async def test_a_name_with_one_bad_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would depend on luck which is called."""
    found(monkeypatch, ["8.8.8.8", "10.0.0.1"])
    with pytest.raises(
        RefusedError,
        match="two-faced.example is at 10.0.0.1, which is not called: it is in no public network",
    ):
        await resolve("two-faced.example", 443, private=False)


@pytest.mark.parametrize("spelled", ["0x7f.1", "0177.0.0.1", "2130706433", "127.1", "localhost"])
async def test_no_spelling_hides_an_address(spelled: str) -> None:
    """What the resolver makes of it is what is checked."""
    with pytest.raises(RefusedError, match="is not called"):
        await resolve(spelled, 80, private=False)


async def test_the_address_that_was_checked_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves to something else the second time is not asked a second time."""
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    asked = found(monkeypatch, ["127.0.0.1"], ["169.254.169.254"])
    stream = await CheckedNetwork(private=True).connect_tcp("rebinding.example", port, timeout=10)
    assert stream.get_extra_info("server_addr")[:2] == ("127.0.0.1", port)
    assert asked == ["rebinding.example"]
    await stream.aclose()
    server.close()
