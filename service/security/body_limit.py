"""Limits on request bodies: size, time, shape and memory, applied before anything reads them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import InvalidRequest, RequestTimeout, ServiceError, TooLarge, Unavailable
from service.security.json_shape import JsonShape

# Between two parts of a body.
MAX_PAUSE_S = 20.0
# A whole body has this long, and a second more for each MIN_RATE bytes that arrived.
GRACE_S = 20.0
MIN_RATE = 1 << 14
# All bodies that are being received may take the memory of this many of the largest.
MAX_LARGEST_BODIES = 4


class BodyLimitMiddleware:
    """Receive each body whole, within limits, before the application runs.

    It answers 413 to a body over its size, 408 to one that arrives too slowly, 422 to JSON with
    too many fields or values, and 503 while too many bodies are being received.
    """

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
        self.max_total_bytes = MAX_LARGEST_BODIES * max(max_bytes, *max_bytes_by_path.values())
        self.total_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.max_bytes_by_path.get(scope["path"], self.max_bytes)
        try:
            # The whole body is read here: the app could swallow an exception raised by `receive`.
            content = await self._read(Headers(scope=scope), limit, receive)
        except ServiceError as error:
            error.headers["Connection"] = "close"
            await self.error_response(error)(scope, receive, send)
            return
        if content is None:
            return  # the client has disconnected
        replay = _replay(content, receive)
        # From here the memory is the app's, which frees it once it has parsed the body.
        del content
        await self.app(scope, replay, send)

    async def _read(self, headers: Headers, limit: int, receive: Receive) -> bytes | None:
        """Return a body; None if the client disconnects. Raises ServiceError over a limit."""
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > limit:
            raise _too_large(limit)
        is_form = headers.get("content-type", "").strip().lower().startswith("multipart/")
        shape = None if is_form else JsonShape()
        body = _Body(self)
        try:
            content = await body.read(limit, shape, receive)
        finally:
            self.total_bytes -= body.held_bytes
        if content is not None and shape is not None:
            shape.check(content)
        return content


class _Body:
    """One body while it is received. `held_bytes`: its share of the memory for all bodies."""

    def __init__(self, limits: BodyLimitMiddleware) -> None:
        self.limits = limits
        self.held_bytes = 0
        self._chunks: list[bytes] = []

    async def read(self, limit: int, shape: JsonShape | None, receive: Receive) -> bytes | None:
        started_at = time.monotonic()
        total = 0
        error: InvalidRequest | None = None
        has_more = True
        while has_more:
            deadline = started_at + GRACE_S + total / MIN_RATE
            message = await _receive_before(deadline, receive)
            if message["type"] != "http.request":
                return None
            has_more = message.get("more_body", False)
            chunk = message.get("body", b"")
            total += len(chunk)
            if total > limit:
                raise _too_large(limit)
            # The rest of an invalid body is received too: a client that still sends would not
            # read the response.
            if error is None:
                self._hold(chunk)
                try:
                    if shape is not None:
                        shape.add(chunk)
                except InvalidRequest as invalid:
                    error = invalid
                    self._chunks.clear()
        if error is not None:
            raise error
        return b"".join(self._chunks)

    def _hold(self, chunk: bytes) -> None:
        if self.limits.total_bytes + len(chunk) > self.limits.max_total_bytes:
            raise Unavailable("Too many requests are being received at once. Retry shortly.")
        self.limits.total_bytes += len(chunk)
        self.held_bytes += len(chunk)
        self._chunks.append(chunk)


async def _receive_before(deadline: float, receive: Receive) -> Message:
    """Receive a part of a body. Raises RequestTimeout if it comes too late."""
    wait_s = min(MAX_PAUSE_S, max(deadline - time.monotonic(), 0))
    try:
        async with asyncio.timeout(wait_s):
            return await receive()
    except TimeoutError as error:
        raise RequestTimeout(
            "The body arrived too slowly. Send it again over a faster connection."
        ) from error


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body exceeds {limit} bytes, the limit of this route. Send less.")


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that yields the body once and then what the client sends."""
    message: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def receive_again() -> Message:
        nonlocal message
        current = message
        message = None
        return current if current is not None else await receive()

    return receive_again
