"""Limits on the size of request bodies, applied before anything reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ServiceError, TooLarge


class BodyLimitMiddleware:
    """Answer 413 to a body over the limit, by its Content-Length or once too much has arrived."""

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int,
        max_bytes_by_path: Mapping[str, int],
        error_response: Callable[[ServiceError], ASGIApp],
    ) -> None:
        """Wrap an app.

        max_bytes: limit of all paths that `max_bytes_by_path` does not list.
        error_response: makes the response of an error.
        """
        self.app = app
        self.max_bytes = max_bytes
        self.max_bytes_by_path = max_bytes_by_path
        self.error_response = error_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.max_bytes_by_path.get(scope["path"], self.max_bytes)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            await self._reject(limit, scope, receive, send)
            return
        # The whole body is read here: the app could swallow an exception raised by `receive`.
        chunks: list[bytes] = []
        total = 0
        has_more = True
        while has_more:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client has disconnected
            chunks.append(message.get("body", b""))
            total += len(chunks[-1])
            if total > limit:
                await self._reject(limit, scope, receive, send)
                return
            has_more = message.get("more_body", False)
        await self.app(scope, _replay(b"".join(chunks), receive), send)

    async def _reject(self, limit: int, scope: Scope, receive: Receive, send: Send) -> None:
        error = TooLarge(
            f"The body exceeds {limit} bytes, the limit of this route. Send less.",
            headers={"Connection": "close"},
        )
        await self.error_response(error)(scope, receive, send)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that yields the body once and then what the client sends."""
    message: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def receive_again() -> Message:
        nonlocal message
        current = message
        message = None
        return current if current is not None else await receive()

    return receive_again
