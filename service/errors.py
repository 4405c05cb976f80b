"""Errors of the service.

Storage and security code raises them. `service/api/problems.py` maps them to problem+json,
`service/openai/errors.py` to OpenAI's form.

* ServiceError
  - BadRequest                                400
  - Unauthorized                              401
  - Forbidden                                 403
  - NotFound                                  404
    - JobNotFound
    - ImageNotFound
  - NotAcceptable                             406
  - RequestTimeout                            408
  - TooLarge                                  413
  - UnsupportedMediaType                      415
  - InvalidRequest                            422
  - LimitExceeded                             429
    - QuotaExceeded
    - QueueFull
    - RateLimited
  - Unavailable                               503
    - RedisDown
    - ObjectStoreDown
    - NoWorker
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Self

from pydantic import BaseModel, Field

RETRY_AFTER_S = 5  # of what is unavailable: Redis and workers restart within seconds
MAX_GOT_CHARACTERS = 200
MAX_FIELD_PROBLEMS = 20
# Parts of a pydantic location that name no field: the body and the branches of an image's union.
_NOT_FIELDS = {"body", "str", "ImageRef"}


class InvalidSetting(ValueError):
    """A setting is invalid; only the use of its value shows it. The message names the setting."""


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    field: str = Field(description="Path of the field, with dots.")
    message: str = Field(description="What is wrong, and the remedy.")
    got: str | None = Field(None, description="The value received, shortened.")

    @classmethod
    def from_fault(cls, fault: Mapping[str, Any]) -> Self:
        """Describe one entry of pydantic's `ValidationError.errors()`."""
        path = ".".join(str(part) for part in fault["loc"] if part not in _NOT_FIELDS) or "body"
        if fault["type"] == "missing":
            return cls(field=path, message="It is required")
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = "There is no such field; see /docs for the fields"
        if fault["type"] == "model_type" and path == "body":
            message = "Send one JSON object"
        value = fault.get("input")
        got = _quote(value)
        if len(got) > MAX_GOT_CHARACTERS:
            got = got[:MAX_GOT_CHARACTERS] + "…"
        return cls(field=path, message=message, got=got)


def omitted(problems: Sequence[object]) -> str:
    """Return what follows the first `MAX_FIELD_PROBLEMS` messages, such as "; and 3 more"."""
    surplus = len(problems) - MAX_FIELD_PROBLEMS
    return f"; and {surplus} more" if surplus > 0 else ""


def _quote(value: object) -> str:
    """Quote the beginning of a value, which may be as large as a request."""
    if isinstance(value, dict):
        # The names are enough: the values may be images.
        return f"the fields {', '.join(str(name) for name in islice(value, MAX_GOT_CHARACTERS))}"
    if isinstance(value, str | bytes | list):
        return repr(value[: MAX_GOT_CHARACTERS + 1])
    return repr(value)


class ServiceError(Exception):
    """Base of all errors that a request can cause.

    `detail`: what is wrong, the value and the remedy, for people. `retry_after_s`: seconds after
    which the same request may succeed; None if it never does. `headers`: headers of the response,
    such as WWW-Authenticate.
    """

    def __init__(
        self,
        detail: str,
        *,
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.headers = dict(headers or {})


class BadRequest(ServiceError):
    """The request cannot be read: it is not JSON, not a form, or for another host."""


class Unauthorized(ServiceError):
    """The API key is missing or invalid."""


class Forbidden(ServiceError):
    """A page of another site sends the request."""


class NotFound(ServiceError):
    """The requested object does not exist."""


class JobNotFound(NotFound):
    """The job does not exist, has expired, or belongs to another API key."""


class ImageNotFound(NotFound):
    """The job has no such image or animation."""


class NotAcceptable(ServiceError):
    """No response has the media type that the client accepts."""


class RequestTimeout(ServiceError):
    """The body does not arrive in time."""


class TooLarge(ServiceError):
    """The body is larger than the service reads."""


class UnsupportedMediaType(ServiceError):
    """The body has a media type that the route does not read."""


class InvalidRequest(ServiceError):
    """The request can be read and its fields cannot be used. `errors`: one entry a field."""

    def __init__(self, detail: str, errors: Sequence[FieldProblem] = ()) -> None:
        super().__init__(detail)
        self.errors = list(errors)

    @classmethod
    def from_problems(cls, errors: Sequence[FieldProblem]) -> Self:
        """Make an error whose detail joins the messages of the first `MAX_FIELD_PROBLEMS`."""
        first = errors[:MAX_FIELD_PROBLEMS]
        detail = "; ".join(f"{error.field}: {error.message}" for error in first)
        return cls(detail + omitted(errors), first)

    @classmethod
    def from_field(cls, field: str, message: str) -> Self:
        """Make an error about one field; `message` has no full stop."""
        return cls(f"{field}: {message}.", [FieldProblem(field=field, message=message)])


class LimitExceeded(ServiceError):
    """A limit is reached. `retry_after_s` says when it is worth to retry."""


class QuotaExceeded(LimitExceeded):
    """The API key has as many active jobs as it may have."""


class QueueFull(LimitExceeded):
    """As many jobs wait as the service holds."""


class RateLimited(LimitExceeded):
    """The API key sends requests faster than its rate."""


class Unavailable(ServiceError):
    """Something that the service needs is not available at present."""

    def __init__(
        self,
        detail: str,
        *,
        retry_after_s: int | None = RETRY_AFTER_S,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail, retry_after_s=retry_after_s, headers=headers)


class RedisDown(Unavailable):
    """Redis does not respond."""


class ObjectStoreDown(Unavailable):
    """The object store does not respond."""


class NoWorker(Unavailable):
    """No worker is alive."""
