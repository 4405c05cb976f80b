"""API-key authentication, active with UNCLIP_API_KEYS=required.

The middleware authenticates before the body is read, and puts the rate limit's headers on every
response. A failure is stored on the request and raised by the `require_api_key` dependency, so
that the normal exception handlers format it. Image URLs carry a `link` token that grants access
to that job's images only, for browsers and for people who receive the URL.
"""

from __future__ import annotations

import re
from typing import Any

from fastapi import Request
from redis.exceptions import RedisError
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts import redis_keys
from service.errors import RateLimited, ServiceError
from service.jobs.quota import Owner
from service.jobs.repository import JobRepository
from service.security import rate_limit
from service.security.api_keys import TOKEN_PREFIX, ApiKey, authenticate

_IMAGE_PATH = re.compile(r"/jobs/([0-9a-f]{32})/(?:images/[0-9]+\.png|animation)")
_GALLERY_IMAGE_PATH = re.compile(r"/gallery/images/([0-9a-f]{32})\.png")
# Scripts and styles of the pages.
OPEN_PREFIXES = ("/studio/", "/docs/static/")
# Probes, and pages that say how to send requests. None of them shows a job.
OPEN_PATHS = frozenset({"/", "/docs", "/openapi.json", "/healthz", "/readyz", "/metrics"})
SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key: unclip_…"},
    "header": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "The same, for proxies that use Authorization themselves.",
    },
}


class ApiKeyMiddleware:
    """Authenticate each request and count it against its key's rate."""

    def __init__(self, app: ASGIApp, jobs: JobRepository) -> None:
        self.app = app
        self.jobs = jobs
        self.redis = jobs.redis

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_open(scope["path"]):
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        limit_headers: dict[str, str] = {}
        try:
            if await self._has_link(scope):
                state["is_linked"] = True
                await self.app(scope, receive, send)
                return
            key = await authenticate(self.redis, _token(Headers(scope=scope)))
            if key.rate is not None:
                limit_headers = await self._consume_rate_limit(key, key.rate)
            state["api_key"] = key
        except (ServiceError, RedisError) as error:
            state["access_error"] = error
            # The body of a rejected request must not fill the memory.
            receive = _without_body(receive)

        async def send_with_limit(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in limit_headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_limit)

    async def _has_link(self, scope: Scope) -> bool:
        """Return whether the URL is an image's and carries its job's link token."""
        if scope["method"] != "GET":
            return False
        link = QueryParams(scope["query_string"]).get("link")
        if link is None:
            return False
        # The gallery's route compares the link, which is in another database.
        match = _GALLERY_IMAGE_PATH.fullmatch(scope["path"])
        if match is None:
            match = _IMAGE_PATH.fullmatch(scope["path"])
            if match is None or not await self.jobs.is_linked(match[1], link):
                return False
        await self._count_link(match[1])
        return True

    async def _count_link(self, object_id: str) -> None:
        """Count a request by link. Raises RateLimited."""
        bucket = redis_keys.link_rate_limit(object_id)
        result = await rate_limit.consume(self.redis, bucket, rate_limit.LINK_RATE)
        if not result.allowed:
            raise RateLimited(
                f"Too many requests by this link. Retry in {result.retry_after_s} s.",
                retry_after_s=result.retry_after_s,
            )

    async def _consume_rate_limit(self, key: ApiKey, rate: str) -> dict[str, str]:
        """Count one request and return the RateLimit headers. Raises RateLimited."""
        limit = rate_limit.parse_rate(rate)
        result = await rate_limit.consume(self.redis, redis_keys.rate_limit(key.id), limit)
        headers = {
            "RateLimit-Limit": str(limit.amount),
            "RateLimit-Remaining": str(result.remaining),
            "RateLimit-Reset": str(result.reset_s),
        }
        if not result.allowed:
            raise RateLimited(
                f"Rate limit of {rate} exceeded for API key {key.id}. "
                f"Retry in {result.retry_after_s} s.",
                retry_after_s=result.retry_after_s,
                headers=headers,
            )
        return headers


def is_open(path: str) -> bool:
    """Return whether a path needs no API key."""
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIXES)


def current_api_key(request: Request) -> ApiKey | None:
    """Return the API key of a request, None if keys are not required. A dependency."""
    key: ApiKey | None = getattr(request.state, "api_key", None)
    return key


def current_owner(request: Request) -> Owner | None:
    """Return the owner of a request's jobs, None if keys are not required. A dependency."""
    key = current_api_key(request)
    return key.owner if key else None


async def require_api_key(request: Request) -> None:
    """Reject requests without a valid key or over its rate. A dependency.

    Raises the error that the middleware stored: Unauthorized, RateLimited, or a RedisError. The
    owner of a job is checked when the job is read.
    """
    if is_open(request.scope["path"]) or getattr(request.state, "is_linked", False):
        return
    if error := getattr(request.state, "access_error", None):
        raise error


def describe_security(document: dict[str, Any], responses: dict[int | str, Any]) -> None:
    """Add the key's schemes and the responses 401 and 429 to an OpenAPI document.

    responses: the problems of 401 and 429. An operation that describes its own keeps them.
    """
    document["components"]["securitySchemes"] = SECURITY_SCHEMES
    added = {str(status): response for status, response in responses.items()}
    for path, operations in document["paths"].items():
        if path in OPEN_PATHS:
            continue
        for operation in operations.values():
            operation["security"] = [{name: []} for name in SECURITY_SCHEMES]
            operation["responses"] = added | operation["responses"]


def _token(headers: Headers) -> str | None:
    """Return the API key of a request; a proxy may use Authorization itself."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else None
    if bearer is not None and bearer.startswith(TOKEN_PREFIX):
        return bearer
    return headers.get("x-api-key", bearer)


def _without_body(receive: Receive) -> Receive:
    """Return a `receive` that yields an empty body and then what the client sends."""
    is_empty_body_sent = False

    async def receive_after() -> Message:
        nonlocal is_empty_body_sent
        if is_empty_body_sent:
            return await receive()
        is_empty_body_sent = True
        return {"type": "http.request", "body": b"", "more_body": False}

    return receive_after
