"""SSRF and DNS rebinding protection: which addresses the service may connect to.

A host name is resolved once, all of its addresses are checked, and the connection goes to an
address that was checked. A name that resolves to another address a moment later (DNS rebinding)
therefore has no effect. TLS verifies, and the Host header names, the URL's host.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import httpcore

Address = IPv4Address | IPv6Address
# Metadata services of clouds that the rules for networks below do not reject.
METADATA = {
    ip_address(text)
    for text in (
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd20:ce::254",
        "fd00:c1::a9fe:a9fe",
    )
}
# NAT64 of a local network (RFC 8215): where the IPv4 address is inside depends on its operator.
LOCAL_NAT64 = ip_network("64:ff9b:1::/48")
# Special networks that some releases of Python 3.11 report as global.
NOT_PUBLIC = [ip_network(text) for text in ("192.0.0.0/24", "fec0::/10")]
# IPv6 networks whose last 32 bits are the IPv4 destination: mapped, translated (RFC 2765), NAT64,
# compatible.
EMBEDDED_IPV4 = [
    ip_network(text) for text in ("::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "::/96")
]


class AddressNotAllowedError(Exception):
    """The service must not connect to this address; the message says why."""


def rejection_reason(address: Address, allow_private: bool) -> str | None:
    """Return why an address must not be called, None if it may be.

    allow_private: whether loopback and private networks are allowed.
    """
    destination = _destination(address)
    if destination in LOCAL_NAT64:
        return "it is translated to an IPv4 address that cannot be checked"
    if destination in METADATA or destination.is_link_local:
        return "it is link-local or a cloud's metadata service"
    if destination.is_multicast or destination.is_unspecified:
        return "it is not the address of one machine"
    is_public = (
        destination.is_global
        and (destination.is_loopback or not destination.is_reserved)
        and not any(destination in network for network in NOT_PUBLIC)
    )
    return None if is_public or allow_private else "it is not in a public network"


def _destination(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address leads to (RFC 6052, 3056, 4380), or itself."""
    if isinstance(address, IPv4Address) or address.is_loopback or address.is_unspecified:
        return address
    if any(address in network for network in EMBEDDED_IPV4):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour or (address.teredo[1] if address.teredo else address)


async def resolve(host: str, port: int, allow_private: bool) -> list[str]:
    """Return the addresses of a host, all of them checked.

    Raises AddressNotAllowedError if one of them must not be called, OSError if there are none.
    """
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in infos))
    for address in addresses:
        if reason := rejection_reason(ip_address(address), allow_private):
            raise AddressNotAllowedError(
                f"{host} has the address {address}, which is not allowed: {reason}"
            )
    return addresses


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connect to checked addresses only: a network backend for httpcore."""

    def __init__(self, allow_private: bool) -> None:
        self.allow_private = allow_private
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        last_error: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in await resolve(host, port, self.allow_private):
            try:
                return await self._network.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last_error = error
        raise last_error

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Any = None
    ) -> httpcore.AsyncNetworkStream:
        raise AddressNotAllowedError("a webhook cannot be a Unix socket")

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)
