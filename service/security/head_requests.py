"""HEAD for every route that has GET: the same response without its body (RFC 9110, 9.3.2)."""

from __future__ import annotations

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadMiddleware:
    """Run the GET of a route for HEAD, and send the head of its response only."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        is_complete = False

        async def send_head(message: Message) -> None:
            nonlocal is_complete
            if is_complete:
                # Ends a stream, whose body could be endless.
                raise OSError
            if message["type"] == "http.response.body":
                message = {"type": "http.response.body", "body": b"", "more_body": False}
                is_complete = True
            await send(message)

        scope["method"] = "GET"
        try:
            await self.app(scope, receive, send_head)
        except (ClientDisconnect, OSError):
            if not is_complete:
                raise
        finally:
            scope["method"] = "HEAD"
