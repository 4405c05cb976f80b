"""Restriction to trusted hosts, against DNS rebinding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import BadRequest, ServiceError
from service.settings import Settings

# Probes address a machine by its IP address.
PROBES = ("/healthz", "/readyz", "/metrics")
MAX_QUOTED_CHARACTERS = 100
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")


def trusted_hosts(settings: Settings) -> tuple[str, ...]:
    """Return the hosts that requests may name; none for all.

    A service on a loopback address trusts that machine's names and the host of its public URL by
    default. Otherwise any web page could reach it by DNS rebinding.
    """
    if settings.trusted_hosts:
        return settings.trusted_hosts
    if not _is_loopback(settings.host):
        return ()
    public = settings.public_url.host if settings.public_url else None
    return (*LOOPBACK_HOSTS, settings.host.lower(), *((public.lower(),) if public else ()))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class TrustedHostMiddleware:
    """Answer 400 to requests whose Host header names another host. Probes are excluded."""

    def __init__(
        self,
        app: ASGIApp,
        trusted_hosts: Sequence[str],
        error_response: Callable[[ServiceError], ASGIApp],
    ) -> None:
        """Wrap an app.

        trusted_hosts: names or patterns such as *.example.org.
        error_response: makes the response of an error.
        """
        self.app = app
        self.trusted_hosts = trusted_hosts
        self.error_response = error_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] == "http" and scope["path"] not in PROBES:
            host = Headers(scope=scope).get("host", "")
            if not self._is_trusted(host):
                app = self.error_response(
                    BadRequest(
                        f"This service is not available as {host[:MAX_QUOTED_CHARACTERS]!r}. "
                        "Use one of its own host names."
                    )
                )
        await app(scope, receive, send)

    def _is_trusted(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            name = ""
        return any(fnmatchcase(name, pattern) for pattern in self.trusted_hosts)
