"""Bounds on what a request may send, before anything reads it."""

from __future__ import annotations

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import ProblemError, problem


class BodyLimit:
    """ASGI middleware: a body over the limit is answered 413, by its Content-Length or as soon as too much has come."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = problem(413, f"The body is larger than {self.max_bytes} bytes, the most this service reads. Send less.")
        refusal.headers["Connection"] = "close"
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.max_bytes:
            await refusal(scope, receive, send)
            return
        # Read the whole body here, so that the answer is ours even where the app would swallow an exception of receive.
        chunks: list[bytes] = []
        total, more = 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client has gone
            chunks.append(message.get("body", b""))
            total += len(chunks[-1])
            if total > self.max_bytes:
                await refusal(scope, receive, send)
                return
            more = message.get("more_body", False)
        body: Message | None = {"type": "http.request", "body": b"".join(chunks), "more_body": False}

        async def replay() -> Message:
            nonlocal body
            message, body = body, None
            return message if message is not None else await receive()

        await self.app(scope, replay, send)


async def json_only(request: Request) -> None:
    """Dependency: refuse a body that does not say it is JSON."""
    media = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media != "application/json":
        raise ProblemError(415, f"The body is {media or 'of no stated type'}: send JSON, with Content-Type: application/json.")
