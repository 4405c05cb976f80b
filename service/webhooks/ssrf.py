"""Which addresses the service may call, and a way to them that no name can lead astray.

A name is resolved once, every address it has is checked, and the connection goes to the very address that was checked: a name that
resolves to something else a moment later (DNS rebinding) gains nothing. The URL's host is what TLS verifies and the Host header says.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import httpcore

Address = IPv4Address | IPv6Address
# Where clouds tell a machine its secrets, as far as the rules for networks do not refuse it already.
METADATA = {
    ip_address(text)
    for text in ("168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254")
}
# Networks of no public that Python 3.11 takes for public, in some of its releases.
NOT_PUBLIC = [ip_network(text) for text in ("192.0.0.0/24", "fec0::/10")]
# IPv6 addresses whose last 32 bits are the IPv4 address they lead to: mapped, translated (RFC 2765), NAT64, compatible.
HOLD_IPV4 = [
    ip_network(text) for text in ("::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "::/96")
]


class RefusedError(Exception):
    """An address that must not be called, and why."""


def refusal(address: Address, private: bool) -> str | None:
    """Why this address must not be called; None where it may be. `private`: loopback and private networks may."""
    inner = _destination(address)
    if inner in METADATA or inner.is_link_local:
        return "it is link-local, or where a cloud tells machines their secrets"
    if inner.is_multicast or inner.is_unspecified:
        return "it is no address of one machine"
    public = (
        inner.is_global
        and (inner.is_loopback or not inner.is_reserved)
        and not any(inner in network for network in NOT_PUBLIC)
    )
    return None if public or private else "it is in no public network"


def _destination(address: Address) -> Address:
    """Where a packet to this address ends: that of IPv6 which carries IPv4 (RFC 6052, 3056, 4380) is the IPv4 address."""
    if isinstance(address, IPv4Address) or address.is_loopback or address.is_unspecified:
        return address
    if any(address in network for network in HOLD_IPV4):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour or (address.teredo[1] if address.teredo else address)


async def resolve(host: str, port: int, private: bool) -> list[str]:
    """A host's addresses, all of them checked. RefusedError where one must not be called, OSError where it has none."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
    for address in addresses:
        if why := refusal(ip_address(address), private):
            raise RefusedError(f"{host} is at {address}, which is not called: {why}")
    return addresses


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """httpcore's network, on which a connection goes to a checked address of its host, and nowhere else."""

    def __init__(self, private: bool) -> None:
        self.private = private
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failed: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in await resolve(host, port, self.private):
            try:
                return await self._network.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Any = None
    ) -> httpcore.AsyncNetworkStream:
        raise RefusedError("a webhook is no socket of this machine")

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)
