"""Errors in OpenAI's form, with the status that makes each client raise the matching exception.

A body is `{"error": {"message", "type", "param", "code"}}`. Code under `service/openai` raises
OpenAIError. Errors of other code, which become problem+json, are translated by a middleware.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import errors
from service.errors import MAX_FIELD_PROBLEMS, FieldProblem, ServiceError, omitted
from service.openai.schemas import OpenAIErrorBody

PREFIX = "/v1/"
PROBLEM_JSON = "application/problem+json"
FAILURE = "The service failed at this request; see its log."
# OpenAI has no 422: a field that cannot be used is a bad request.
STATUSES: dict[type[ServiceError], int] = {
    errors.Unauthorized: 401,
    errors.NotFound: 404,
    errors.TooLarge: 413,
    errors.LimitExceeded: 429,
    errors.Unavailable: 503,
}
# `type` and `code` by status, if they are not those of a bad request or of a failed service.
KINDS = {
    401: ("invalid_request_error", "invalid_api_key"),
    429: ("requests", "rate_limit_exceeded"),
}
# `code` by pydantic's type of a fault.
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
    """An error response, or the last event of a stream."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Make an error.

        param: name of the parameter at fault.
        code: a word for programs; by default the status' usual one.
        """
        super().__init__(message)
        self.status = status
        self.headers = headers
        default_kind = "server_error" if status >= 500 else "invalid_request_error"
        kind, default_code = KINDS.get(status, (default_kind, None))
        self.body = OpenAIErrorBody.build(message, kind, param, code or default_code)

    def response(self) -> Response:
        """Return the error as a response."""
        # A message may quote values that UTF-8 cannot carry, such as half a surrogate pair.
        content = json.dumps(self.body, ensure_ascii=True)
        return Response(content, self.status, self.headers, "application/json")


def from_validation_error(error: ValidationError) -> OpenAIError:
    """Return an error with the messages of all fields, and `param` and `code` of the first."""
    faults = error.errors()
    messages = []
    for fault in faults[:MAX_FIELD_PROBLEMS]:
        problem = FieldProblem.from_fault(fault)
        value = f" (got {problem.got})" if problem.got else ""
        messages.append(f"{problem.field}: {problem.message}{value}")
    param = str(faults[0]["loc"][0]) if faults[0]["loc"] else None
    code = CODES.get(faults[0]["type"], "invalid_value")
    return OpenAIError(400, "; ".join(messages) + omitted(faults) + ".", param, code)


def from_service_error(error: ServiceError) -> OpenAIError:
    """Return an error of the service in OpenAI's form."""
    status = next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 400)
    return OpenAIError(status, error.detail)


def image_error(param: str, reason: str) -> OpenAIError:
    """Return the error of an image that cannot be used."""
    return OpenAIError(400, f"{param}: {reason}.", param, "invalid_image")


class OpenAIErrorMiddleware:
    """Translate problems under /v1 into OpenAI's form.

    They come from the layers that this one wraps: body limit, authentication, routing and the
    exception handlers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            await self.app(scope, receive, send)
            return
        is_started = False
        problem_start: Message | None = None
        content = b""

        async def translate(message: Message) -> None:
            nonlocal is_started, problem_start, content
            if message["type"] == "http.response.start":
                is_started = True
                if Headers(raw=message["headers"]).get("content-type") == PROBLEM_JSON:
                    problem_start = message
                    return
            elif problem_start is not None:
                content += message.get("body", b"")
                if not message.get("more_body", False):
                    error = _from_problem(problem_start, content)
                    await error.response()(scope, receive, send)
                return
            await send(message)

        try:
            await self.app(scope, receive, translate)
        except Exception:
            # After the start, the status is already sent.
            if not is_started:
                await OpenAIError(500, FAILURE).response()(scope, receive, send)
            raise


def _from_problem(start: Message, content: bytes) -> OpenAIError:
    problem: dict[str, Any] = json.loads(content)
    headers = {
        name: value
        for name, value in Headers(raw=start["headers"]).items()
        if name not in ("content-type", "content-length")
    }
    fields = problem.get("errors") or [{}]
    status = 400 if start["status"] == 422 else start["status"]
    return OpenAIError(status, problem["detail"], fields[0].get("field"), headers=headers)
