"""Security headers on every response, and the middleware around the whole application.

The middleware wraps FastAPI's own stack: ServerErrorMiddleware, the outermost layer of that stack,
creates the 500 response, which needs the headers too. Only headers are changed, so events stream.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ServiceError
from service.security import hosts
from service.security.origins import CrossSiteMiddleware, allowed_origins
from service.security.request_id import RequestIdMiddleware
from service.settings import Settings

CORS_METHODS = ("GET", "HEAD", "POST", "DELETE")
# Response headers that pages of other origins may read.
CORS_EXPOSED = (
    "Location",
    "Link",
    "Retry-After",
    "X-Request-ID",
    "ETag",
    "Preference-Applied",
    "WWW-Authenticate",
    "RateLimit-Limit",
    "RateLimit-Remaining",
    "RateLimit-Reset",
)
HSTS = "max-age=31536000"
# Browsers show a bare image with an inline style.
CONTENT_POLICY = "; ".join(
    (
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


class SecurityHeadersMiddleware:
    """Add security headers. A header that the response sets itself is not changed."""

    def __init__(self, app: ASGIApp, *, is_cross_origin: bool) -> None:
        """Wrap an app.

        is_cross_origin: whether pages of other sites may embed images.
        """
        self.app = app
        self.headers = {
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "cross-origin" if is_cross_origin else "same-site",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers.setdefault(name, value)
                # JSON has links that open images, and changes from request to request.
                if "json" in headers.get("content-type", ""):
                    headers.setdefault("Cache-Control", "no-store")
                headers.setdefault("Content-Security-Policy", CONTENT_POLICY)
                if scope["scheme"] == "https":
                    headers.setdefault("Strict-Transport-Security", HSTS)
            await send(message)

        await self.app(scope, receive, send_with_headers)


def wrap_app(
    app: ASGIApp, settings: Settings, error_response: Callable[[ServiceError], ASGIApp]
) -> ASGIApp:
    """Wrap the application in request ids, security headers, trusted hosts and CORS.

    error_response: makes the response of an error.
    """
    if settings.cors_origins:
        app = CORSMiddleware(
            app,
            settings.cors_origins,
            CORS_METHODS,
            allow_headers=("*",),
            expose_headers=CORS_EXPOSED,
        )
    app = CrossSiteMiddleware(app, allowed_origins(settings), error_response)
    if trusted_hosts := hosts.trusted_hosts(settings):
        app = hosts.TrustedHostMiddleware(app, trusted_hosts, error_response)
    app = SecurityHeadersMiddleware(app, is_cross_origin=bool(settings.cors_origins))
    return RequestIdMiddleware(app)
