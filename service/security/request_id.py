"""An id for each request, on its response and on every line that it logs."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.logging import bind_request_id

HEADER = "X-Request-ID"
_ACCEPTABLE = re.compile(r"[ -~]{1,128}")


class RequestIdMiddleware:
    """Take the id from the X-Request-ID header, or create one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        client_id = Headers(scope=scope).get(HEADER, "")
        request_id = client_id if _ACCEPTABLE.fullmatch(client_id) else uuid.uuid4().hex
        bind_request_id(request_id)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        await self.app(scope, receive, send_with_id)
