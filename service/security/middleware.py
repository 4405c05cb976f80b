"""Who may come in: with UNCLIP_API_KEYS=required all but OPEN needs an API key, which may ask so often and sees its own jobs only. A
image's URL carries what opens that job's images alone, so that browsers, and whoever is sent the URL, can show them.

The middleware proves the key before anything reads the body, and puts the limit's headers on whatever is answered. What it finds
against a request is raised by the dependency, behind the app's exception handlers, as if the route had raised it.
"""

from __future__ import annotations

import re
from typing import Any

from fastapi import Request
from redis.exceptions import RedisError
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import ProblemError, responses
from service.jobs.repository import Jobs
from service.security import rate_limit
from service.security.api_keys import ApiKey, proved

IMAGES = re.compile(r"/jobs/([0-9a-f]{32})/(?:images/[0-9]+\.png|animation)")
# What machines ask of a service's health, and what tells people how to ask. None of it knows of anybody's work.
OPEN = frozenset({"/", "/docs", "/openapi.json", "/healthz", "/readyz", "/metrics"})
SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key: unclip_…"},
    "header": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "The same, where a proxy needs Authorization.",
    },
}


def caller(request: Request) -> ApiKey | None:
    """The key that a request came with; None where none is required."""
    found: ApiKey | None = getattr(request.state, "caller", None)
    return found


def owner(request: Request) -> str | None:
    """Whose jobs a request may see; None for all."""
    found = caller(request)
    return found.id if found else None


class Gate:
    """ASGI middleware: finds out who asks."""

    def __init__(self, app: ASGIApp, jobs: Jobs) -> None:
        self.app = app
        self.jobs = jobs
        self.redis = jobs.redis

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        told = {}
        try:
            if await self._linked(scope):
                state["linked"] = True
                await self.app(scope, receive, send)
                return
            key = await proved(self.redis, _token(Headers(scope=scope)))
            if key.rate is not None:
                told = await self._spend(key, key.rate)
            state["caller"] = key
        except (ProblemError, RedisError) as error:
            state["refusal"] = error
            receive = _without_body(receive)  # nobody keeps in memory what may not come in

        async def send_with_limit(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in told.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_limit)

    async def _linked(self, scope: Scope) -> bool:
        asked = IMAGES.fullmatch(scope["path"]) if scope["method"] == "GET" else None
        link = QueryParams(scope["query_string"]).get("link") if asked else None
        return bool(asked and link and await self.jobs.linked(asked[1], link))

    async def _spend(self, key: ApiKey, rate: str) -> dict[str, str]:
        """Count one request: the headers that tell how many are left. ProblemError 429 where there are none."""
        asked = rate_limit.parsed(rate)
        left = await rate_limit.spend(self.redis, key.id, asked)
        told = {
            "RateLimit-Limit": str(asked.amount),
            "RateLimit-Remaining": str(left.remaining),
            "RateLimit-Reset": str(left.reset),
        }
        if left.within:
            return told
        detail = (
            f"The API key {key.id} may make {rate} requests, and the next in {left.retry_after} s."
        )
        raise ProblemError(429, detail, headers=told | {"Retry-After": str(left.retry_after)})


class Admitted:
    """The dependency of all routes: raises what the gate found, and hides others' jobs from each route that names one."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs

    async def __call__(self, request: Request) -> None:
        """ProblemError 401 without a key, 429 over its limit, 404 for another's job."""
        if request.scope["path"] in OPEN or getattr(request.state, "linked", False):
            return
        if refusal := getattr(request.state, "refusal", None):
            raise refusal
        key: ApiKey = request.state.caller
        job_id = request.path_params.get("job_id")
        if job_id is not None:
            await self.jobs.belongs(job_id, key.id)


def describe(document: dict[str, Any]) -> None:
    """Put into the OpenAPI document what the gate asks and answers. A route that tells of its own 401 and 429 keeps them."""
    document["components"]["securitySchemes"] = SCHEMES
    for path, operations in document["paths"].items():
        for operation in operations.values() if path not in OPEN else ():
            operation["security"] = [{name: []} for name in SCHEMES]
            operation["responses"] = {
                str(status): told for status, told in responses(401, 429).items()
            } | operation["responses"]


def _token(headers: Headers) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key")


def _without_body(receive: Receive) -> Receive:
    """An empty body, then what comes."""
    begun = False

    async def receive_after() -> Message:
        nonlocal begun
        if begun:
            return await receive()
        begun = True
        return {"type": "http.request", "body": b"", "more_body": False}

    return receive_after
