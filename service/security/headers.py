"""What goes around every request and answer: an id to find it by, headers that browsers heed, and who may ask.

It lies outside the application's own pipeline, as the answer to an unforeseen exception is made at that one's rim. Only headers are touched,
so events stream through.
"""

from __future__ import annotations

import re
import uuid
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.logging import bind_request_id
from service.api.problems import problem
from service.settings import Settings

ACCEPTABLE_ID = r"[ -~]{1,128}"
RATES = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
EXPOSED = (
    "Location",
    "Link",
    "Retry-After",
    "X-Request-ID",
    "ETag",
    "Preference-Applied",
    "WWW-Authenticate",
    *RATES,
)
PROBES = ("/healthz", "/readyz", "/metrics")  # asked by address, whatever the service's name is
# Browsers show a bare image by a style of their own.
CONTENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# FastAPI's pages: a script in the page itself, the viewers from a CDN, and images that were drawn by trying.
_VIEWERS = "https://cdn.jsdelivr.net"
DOCS_POLICY = (
    f"default-src 'none'; script-src 'unsafe-inline' {_VIEWERS}; style-src 'unsafe-inline' {_VIEWERS} https://fonts.googleapis.com; "
    "font-src https://fonts.gstatic.com; img-src 'self' data: blob: https://fastapi.tiangolo.com https://cdn.redoc.ly; "
    "connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
DOCS = ("/docs", "/docs/oauth2-redirect", "/redoc")


def enclose(app: FastAPI, settings: Settings) -> None:
    """Put it around the application."""
    made = app.build_middleware_stack
    app.build_middleware_stack = lambda: Envelope(made(), settings)  # type: ignore[method-assign]


class Envelope:
    """ASGI middleware. A header that the answer sets itself stays as it is."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.hosts = settings.trusted_hosts
        if settings.cors_origins:
            methods = ("GET", "HEAD", "POST", "DELETE")
            anything = ("*",)
            self.app = CORSMiddleware(
                app, settings.cors_origins, methods, allow_headers=anything, expose_headers=EXPOSED
            )
        self.always = {
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            # Pages of the same site may show images; others where they may call the service as well.
            "Cross-Origin-Resource-Policy": "cross-origin"
            if settings.cors_origins
            else "same-site",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        asked = Headers(scope=scope)
        path = scope["path"]
        given = asked.get("x-request-id", "")
        name = given if re.fullmatch(ACCEPTABLE_ID, given) else uuid.uuid4().hex
        bind_request_id(name)

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = name
                secure = (
                    {"Strict-Transport-Security": "max-age=31536000"}
                    if scope["scheme"] == "https"
                    else {}
                )
                policy = {
                    "Content-Security-Policy": DOCS_POLICY if path in DOCS else CONTENT_POLICY
                }
                for header, value in (self.always | policy | secure).items():
                    headers.setdefault(header, value)
            await send(message)

        app = self.app
        if path not in PROBES and (refusal := self._untrusted(asked.get("host", ""))):
            app = problem(400, refusal)
        await app(scope, receive, headed)

    def _untrusted(self, host: str) -> str | None:
        """Why a request for this host is not answered; None where it is."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            name = ""
        if not self.hosts or any(fnmatchcase(name, pattern) for pattern in self.hosts):
            return None
        return (
            f"The request is for the host {host[:100]!r}, which this service does not answer for."
        )
