"""Errors as application/problem+json (RFC 9457): what was wrong, the value got, and what would do."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
MAX_SHOWN_CHARACTERS = 200
log = logging.getLogger("service")


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    field: str = Field(description="Path of the field, with dots.")
    message: str
    got: str | None = Field(None, description="The value got, shortened.")


class Problem(BaseModel):
    """RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] = []


NO_FIELDS = {
    "body",
    "str",
    "ImageRef",
}  # of what pydantic says of a place: the branches of an image's union


class ProblemError(Exception):
    """Raised anywhere in a request; becomes the answer."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: dict[str, str] | None = None,
        errors: list[FieldProblem] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.errors = errors


def problem(
    status: int,
    detail: str,
    errors: list[FieldProblem] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """A problem as a response."""
    body = Problem(
        title=HTTPStatus(status).phrase, status=status, detail=detail, errors=errors or []
    )
    # Values that JSON or UTF-8 cannot carry may be quoted in a detail: escape them.
    content = json.dumps(body.model_dump(exclude_defaults=False), ensure_ascii=True)
    return Response(content, status, headers, MEDIA_TYPE)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's entry for these problems."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status in statuses
    }


def install(app: FastAPI) -> None:
    """Make every error of the app a problem."""

    @app.exception_handler(ProblemError)
    async def raised(request: Request, error: ProblemError) -> Response:
        return problem(error.status, error.detail, error.errors, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        faults = error.errors()
        if any(fault["type"] == "json_invalid" for fault in faults):
            where = faults[0]["loc"][-1] if faults[0]["loc"] else 0
            return problem(
                400,
                f"The body is not JSON: {faults[0]['ctx']['error']} (at character {where}). Send one JSON object.",
            )
        errors = [field_problem(fault) for fault in faults]
        return problem(422, "; ".join(f"{e.field}: {e.message}" for e in errors), errors)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        detail = str(error.detail)
        if error.status_code == 404:
            detail = f"There is nothing at {request.url.path}. See /docs for what there is."
        elif error.status_code == 405:
            detail = f"{request.method} is not possible at {request.url.path}; it takes {(error.headers or {}).get('Allow', 'other methods')}."
        elif error.status_code == 400:
            detail = "The body could not be read as JSON. Send one JSON object, in UTF-8."
        return problem(error.status_code, detail, headers=dict(error.headers or {}))

    @app.exception_handler(RedisError)
    async def redis_away(request: Request, error: RedisError) -> Response:
        log.warning("Redis does not answer: %s", error)
        return problem(
            503,
            "Redis does not answer, so no work can be accepted or told of. Try again shortly.",
            headers={"Retry-After": "5"},
        )

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        log.error("a request failed", exc_info=error)
        return problem(500, "The service failed at this request; its log says why.")


def field_problem(fault: Any) -> FieldProblem:
    """What pydantic finds wrong with one field, in our words."""
    path = ".".join(str(part) for part in fault["loc"] if part not in NO_FIELDS) or "body"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        message = "There is no such field; see /docs for those there are"
    if fault["type"] == "missing":
        return FieldProblem(field=path, message="It is required", got=None)
    if fault["type"] == "model_type" and path == "body":
        message = "Send one JSON object"
    given = fault.get("input")
    # Of a whole request the names are enough: it may hold images.
    got = f"the fields {', '.join(map(str, given))}" if isinstance(given, dict) else repr(given)
    return FieldProblem(
        field=path,
        message=message,
        got=got if len(got) <= MAX_SHOWN_CHARACTERS else got[:MAX_SHOWN_CHARACTERS] + "…",
    )
