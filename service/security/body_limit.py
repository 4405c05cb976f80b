"""Bounds on what a request may send, before anything reads it."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import problem


class BodyLimit:
    """ASGI middleware: a body over the limit is answered 413, by its Content-Length or as soon as too much has come."""

    def __init__(self, app: ASGIApp, max_bytes: int, paths: Mapping[str, int]) -> None:
        """`paths`: those with a limit of their own."""
        self.app = app
        self.max_bytes = max_bytes
        self.paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        most = self.paths.get(scope["path"], self.max_bytes)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > most:
            await _refusal(most)(scope, receive, send)
            return
        # Read the whole body here, so that the answer is ours even where the app would swallow an exception of receive.
        chunks: list[bytes] = []
        total = 0
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client has gone
            chunks.append(message.get("body", b""))
            total += len(chunks[-1])
            if total > most:
                await _refusal(most)(scope, receive, send)
                return
            more = message.get("more_body", False)
        body: Message | None = {
            "type": "http.request",
            "body": b"".join(chunks),
            "more_body": False,
        }

        async def replay() -> Message:
            nonlocal body
            message = body
            body = None
            return message if message is not None else await receive()

        await self.app(scope, replay, send)


def _refusal(most: int) -> Response:
    refusal = problem(
        413, f"The body is larger than {most} bytes, the most this service reads. Send less."
    )
    refusal.headers["Connection"] = "close"
    return refusal
