"""Errors as OpenAI's clients read them: `{"error": {"message", "type", "param", "code"}}`, with the status that makes each client
raise the exception of that name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import MEDIA_TYPE
from service.errors import FieldProblem
from service.openai.schemas import OpenAIErrorBody

PREFIX = "/v1/"
# `type` and `code` by status, where they are not those of a bad request or of a service that failed.
KINDS = {
    401: ("invalid_request_error", "invalid_api_key"),
    429: ("requests", "rate_limit_exceeded"),
}
# `code` by what pydantic calls a fault.
CODES = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "greater_than_equal": "integer_below_min_value",
    "less_than_equal": "integer_above_max_value",
    "string_too_short": "empty_string",
    "string_too_long": "string_above_max_length",
    "int_type": "invalid_type",
    "int_parsing": "invalid_type",
    "bool_type": "invalid_type",
    "bool_parsing": "invalid_type",
    "string_type": "invalid_type",
}


class OpenAIError(Exception):
    """Raised anywhere in a call; becomes the answer, or the last event of a stream."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        kind, usual = KINDS.get(
            status, ("server_error" if status >= 500 else "invalid_request_error", None)
        )
        self.body = OpenAIErrorBody.of(message, kind, param, code or usual)

    def response(self) -> Response:
        """As an answer. Values that JSON or UTF-8 cannot carry may be quoted in it: they are escaped."""
        return Response(
            json.dumps(self.body, ensure_ascii=True), self.status, self.headers, "application/json"
        )


def of_fields(error: ValidationError) -> OpenAIError:
    """400, as OpenAI has it, and not 422: `param` and `code` are the first fault's, the message tells all."""
    faults = error.errors()
    problems = [FieldProblem.from_fault(fault) for fault in faults]
    message = "; ".join(
        f"{one.field}: {one.message}" + (f" (got {one.got})" if one.got else "") for one in problems
    )
    param = str(faults[0]["loc"][0]) if faults[0]["loc"] else None
    return OpenAIError(400, f"{message}.", param, CODES.get(faults[0]["type"], "invalid_value"))


def of_problem(
    status: int, detail: str, param: str | None = None, headers: Mapping[str, str] | None = None
) -> OpenAIError:
    """The same as a problem of the service's other routes."""
    return OpenAIError(400 if status == 422 else status, detail, param, headers=headers)


def image_error(param: str, reason: str) -> OpenAIError:
    """An image that will not do."""
    return OpenAIError(400, f"{param}: {reason}.", param, "invalid_image")


class OpenAIErrors:
    """ASGI middleware: what anybody answers as a problem under /v1 (a body too large, a key that is none, Redis away, nothing there)
    comes in OpenAI's form. It stands around those who may answer so."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            await self.app(scope, receive, send)
            return
        begun = False
        held = None
        content = b""

        async def translated(message: Message) -> None:
            nonlocal begun, held, content
            if message["type"] == "http.response.start":
                begun = True
                if Headers(raw=message["headers"]).get("content-type") == MEDIA_TYPE:
                    held = message
                    return
            elif held is not None:
                content += message.get("body", b"")
                if not message.get("more_body", False):
                    await _translated(held, content).response()(scope, receive, send)
                return
            await send(message)

        try:
            await self.app(scope, receive, translated)
        except Exception:
            if not begun:  # else it is too late to say so
                await OpenAIError(
                    500, "The service failed at this request; its log says why."
                ).response()(scope, receive, send)
            raise


def _translated(start: Message, content: bytes) -> OpenAIError:
    problem: dict[str, Any] = json.loads(content)
    headers = {
        name: value
        for name, value in Headers(raw=start["headers"]).items()
        if name not in ("content-type", "content-length")
    }
    errors = problem.get("errors") or [{}]
    return of_problem(start["status"], problem["detail"], errors[0].get("field"), headers)
