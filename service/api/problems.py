"""Map errors to application/problem+json (RFC 9457)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from infra.redis_errors import REFUSALS, describe, refusal_code
from service import errors
from service.errors import FieldProblem, InvalidRequest, RedisDown, ServiceError

MEDIA_TYPE = "application/problem+json"
STATUSES: dict[type[ServiceError], int] = {
    errors.BadRequest: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.NotAcceptable: 406,
    errors.RequestTimeout: 408,
    errors.TooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.InvalidRequest: 422,
    errors.LimitExceeded: 429,
    errors.Unavailable: 503,
}
FAILURE = "The service failed at this request; see its log."
log = logging.getLogger("service")


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] = []


def status_of(error: ServiceError) -> int:
    """Return the HTTP status of an error: that of the nearest class in `STATUSES`."""
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500)


def problem(
    status: int,
    detail: str,
    errors: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a problem as a response."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "errors": [error.model_dump() for error in errors],
    }
    # A detail may quote values that UTF-8 cannot carry, such as half a surrogate pair: escape them.
    return Response(json.dumps(body, ensure_ascii=True), status, headers, MEDIA_TYPE)


def problem_response(error: ServiceError) -> Response:
    """Return an error of the service as a problem."""
    headers = dict(error.headers)
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    fields = error.errors if isinstance(error, InvalidRequest) else ()
    return problem(status_of(error), error.detail, fields, headers)


def redis_down(error: Exception) -> RedisDown:
    """Return the service's error for an error of Redis, with the reason if Redis gives one."""
    code = refusal_code(error)
    if code is not None:
        return RedisDown(f"{REFUSALS[code]}, so no job can be accepted. Retry later.")
    return RedisDown(
        "Redis is unavailable; jobs can neither be accepted nor queried. Retry shortly."
    )


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's entries for problems of these statuses."""
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
    app.add_exception_handler(ServiceError, _handle_service_error)
    app.add_exception_handler(RequestValidationError, _handle_validation_error)
    app.add_exception_handler(HTTPException, _handle_http_exception)
    app.add_exception_handler(RedisError, _handle_redis_error)
    app.add_exception_handler(Exception, _handle_unexpected_error)


async def _handle_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return problem_response(error)


async def _handle_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = [FieldProblem.from_fault(fault) for fault in error.errors()]
    return problem_response(InvalidRequest.from_problems(faults))


async def _handle_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    detail = str(error.detail)
    if error.status_code == 404:
        detail = f"No route matches {request.url.path}. See /docs."
    elif error.status_code == 405:
        allowed = headers.get("Allow", "other methods")
        detail = f"{request.method} is not allowed at {request.url.path}. Use {allowed}."
    return problem(error.status_code, detail, headers=headers)


async def _handle_redis_error(request: Request, error: Exception) -> Response:
    log.warning("a request failed at Redis: %s", describe(error))
    return problem_response(redis_down(error))


async def _handle_unexpected_error(request: Request, error: Exception) -> Response:
    log.error("a request failed", exc_info=error)
    return problem(500, FAILURE)
