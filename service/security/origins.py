"""Refusal of requests that pages of other sites send, against CSRF."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Forbidden, ServiceError
from service.settings import Settings

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
MAX_QUOTED_CHARACTERS = 100


def allowed_origins(settings: Settings) -> list[str]:
    """Return the origins whose pages may call the service, its own public one among them."""
    origins = list(settings.cors_origins)
    if settings.public_url is not None:
        parts = urlsplit(str(settings.public_url))
        origins.append(f"{parts.scheme}://{parts.netloc}".lower())
    return origins


class CrossSiteMiddleware:
    """Answer 403 to requests that change something and come from a page of another site.

    A browser sends forms of any page without a preflight (CORS). It says so in Sec-Fetch-Site, or
    over plain HTTP in Origin alone. Other clients send neither.
    """

    def __init__(
        self,
        app: ASGIApp,
        allowed_origins: Sequence[str],
        error_response: Callable[[ServiceError], ASGIApp],
    ) -> None:
        """Wrap an app.

        allowed_origins: origins whose pages may call the service; * for all.
        error_response: makes the response of an error.
        """
        self.app = app
        self.allowed_origins = allowed_origins
        self.error_response = error_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] == "http" and scope["method"] not in SAFE_METHODS:
            headers = Headers(scope=scope)
            origin = headers.get("origin", "")
            if not self._is_allowed(origin) and _is_cross_site(headers):
                app = self.error_response(
                    Forbidden(
                        f"A page of another site, {origin[:MAX_QUOTED_CHARACTERS]!r}, must not "
                        "send this request. The operator can allow it with UNCLIP_CORS_ORIGINS."
                    )
                )
        await app(scope, receive, send)

    def _is_allowed(self, origin: str) -> bool:
        return "*" in self.allowed_origins or origin.lower() in self.allowed_origins


def _is_cross_site(headers: Headers) -> bool:
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "cross-site"
    origin = headers.get("origin")
    if origin is None:
        return False
    return urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
