"""SSRF protection: addresses in all spellings, and names that resolve to them."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address
from typing import Any

import pytest

from service.webhooks.ssrf import AddressNotAllowedError, CheckedNetwork, rejection_reason, resolve

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
    "::ffff:127.0.0.1",
    "::ffff:10.1.2.3",
    "::127.0.0.1",
    "64:ff9b::10.0.0.1",
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
    "::ffff:169.254.169.254",
    "64:ff9b::169.254.169.254",
    "2002:a9fe:a9fe::",
    "::169.254.169.254",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fd00:c1::a9fe:a9fe",
    "64:ff9b:1::1",
    "64:ff9b:1::169.254.169.254",
    "64:ff9b:1:a9fe:a9:fe00::",
    "::ffff:168.63.129.16",
]
PUBLIC = [
    "93.184.215.14",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2002:808:808::1",
]


def resolve_names_to(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Resolve names to these addresses, one answer after the other. Returns the looked-up names."""
    names = list[str]()
    upcoming = list(answers)

    async def getaddrinfo(loop: Any, host: str, port: int, **_: Any) -> list[Any]:
        names.append(host)
        addresses = upcoming.pop(0) if len(upcoming) > 1 else upcoming[0]
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses
        ]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return names


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_need_the_setting(address: str) -> None:
    """Loopback, private and reserved networks, also embedded in IPv6."""
    assert rejection_reason(ip_address(address), allow_private=False)
    assert rejection_reason(ip_address(address), allow_private=True) is None


@pytest.mark.parametrize("address", NEVER)
def test_some_addresses_are_never_allowed(address: str) -> None:
    """Metadata services, link-local, multicast and unspecified addresses."""
    assert rejection_reason(ip_address(address), allow_private=False)
    assert rejection_reason(ip_address(address), allow_private=True)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed(address: str) -> None:
    """Also embedded in IPv6."""
    assert rejection_reason(ip_address(address), allow_private=False) is None


async def test_one_disallowed_address_rejects_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise chance would decide which address is called."""
    resolve_names_to(monkeypatch, ["8.8.8.8", "10.0.0.1"])
    with pytest.raises(
        AddressNotAllowedError,
        match="two-faced.example has the address 10.0.0.1, which is not allowed: it is not in a",
    ):
        await resolve("two-faced.example", 443, allow_private=False)


@pytest.mark.parametrize("spelling", ["0x7f.1", "0177.0.0.1", "2130706433", "127.1", "localhost"])
async def test_spellings_do_not_hide_an_address(spelling: str) -> None:
    """The address that the resolver returns is checked."""
    with pytest.raises(AddressNotAllowedError, match="is not allowed"):
        await resolve(spelling, 80, allow_private=False)


async def test_the_checked_address_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that changes its address (DNS rebinding) is resolved only once."""
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    names = resolve_names_to(monkeypatch, ["127.0.0.1"], ["169.254.169.254"])
    network = CheckedNetwork(allow_private=True)
    stream = await network.connect_tcp("rebinding.example", port, timeout=10)
    assert stream.get_extra_info("server_addr")[:2] == ("127.0.0.1", port)
    assert names == ["rebinding.example"]
    await stream.aclose()
    server.close()
