"""Request bodies: JSON and multipart/form-data."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartParser

from contracts.fields import IMAGE_FIELDS
from service.errors import BadRequest, InvalidRequest, ServiceError
from service.requests.serial import run_serially

ModelT = TypeVar("ModelT", bound=BaseModel)
# Parsing a larger body could delay other requests.
LARGE_BODY_BYTES = 1 << 16
MAX_FILES = 4
MAX_FORM_FIELDS = 200
# JSON in a form's field is at most a list of 64 labels.
MAX_JSON_CHARACTERS = 100_000
# Without a plain file name beside it, which would count.
_EXTENDED_FILENAME = re.compile(rb"(?i)(;\s*)filename\*=(?!.*;\s*filename=)")
# How a form's text becomes a value. Fields that are in none of these sets are JSON.
TEXT_FIELDS = {
    "animation",
    "negative_prompt",
    "noise",
    "prior",
    "prompt",
    "prompt_a",
    "prompt_b",
    "prompt_from",
    "prompt_to",
    "sampler",
    "webhook",
}
# Lists of text: a JSON array, or the field several times.
TEXT_LIST_FIELDS = {"labels", "webhook_events"}
LIST_FIELDS = TEXT_LIST_FIELDS | {"components"}


def media_type(request: Request) -> str:
    """Return the body's media type without parameters; empty if there is none."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


async def read_body(request: Request) -> bytes:
    """Return the body. The request keeps no copy of it, unlike with `request.body()`."""
    return b"".join([chunk async for chunk in request.stream()])


async def validate_json(model: type[ModelT], body: bytes) -> ModelT:
    """Validate JSON, in a thread if it is large. Raises ValidationError."""
    if len(body) <= LARGE_BODY_BYTES:
        return model.model_validate_json(body)
    return await run_serially(model.model_validate_json, body)


async def read_json(request: Request) -> Any:
    """Return the body as JSON. Raises BadRequest if it is not."""
    try:
        return json.loads(await read_body(request))
    except json.JSONDecodeError as error:
        raise BadRequest(
            f"The body is not JSON: {error.msg} (at character {error.pos}). Send one JSON object."
        ) from error
    # Not UTF-8, a number of a million digits, or too many brackets.
    except (ValueError, RecursionError) as error:
        raise BadRequest(
            "The body could not be read as JSON. Send one JSON object, in UTF-8."
        ) from error


async def read_form(request: Request) -> dict[str, Any]:
    """Return a form as the JSON object of the same meaning, with files as base64.

    Raises BadRequest if the form cannot be read, InvalidRequest if a field comes too often.
    """
    try:
        async with open_form(request, MAX_FILES, MAX_FORM_FIELDS) as form:
            values = await _parse_fields(form)
    except ServiceError:
        raise
    # Starlette and the parser raise various errors.
    except Exception as error:
        reason = str(getattr(error, "detail", error))[:200]
        raise BadRequest(
            f"The form could not be read ({reason}). Send it as multipart/form-data."
        ) from error
    return {name: _combine(name, parts) for name, parts in values.items()}


def _combine(name: str, parts: list[Any]) -> Any:
    """Return a field's value from all its parts."""
    if name in LIST_FIELDS and not (len(parts) == 1 and isinstance(parts[0], list)):
        return parts
    if len(parts) > 1:
        raise InvalidRequest.from_field(name, f"it came {len(parts)} times; send it once")
    return parts[0]


@asynccontextmanager
async def open_form(request: Request, max_files: int, max_fields: int) -> AsyncIterator[FormData]:
    """Parse a multipart form and close its files after the block.

    A part with `filename*` (RFC 5987) is a file, as one with `filename` is.
    """
    parser = _FormParser(
        request.headers, request.stream(), max_files=max_files, max_fields=max_fields
    )
    form = await parser.parse()
    try:
        yield form
    finally:
        await form.close()


class _FormParser(MultiPartParser):
    def on_headers_finished(self) -> None:
        part = self._current_part
        if part.content_disposition is not None:
            part.content_disposition = _EXTENDED_FILENAME.sub(
                rb"\1filename=", part.content_disposition
            )
        super().on_headers_finished()


async def _parse_fields(form: FormData) -> dict[str, list[Any]]:
    """Return the parts of each field. An empty one counts as absent: browsers send all inputs."""
    fields: dict[str, list[Any]] = {}
    for name, value in form.multi_items():
        is_unset = (
            not (value.filename or value.size) if isinstance(value, UploadFile) else not value
        )
        if not is_unset:
            fields.setdefault(name, []).append(await _parse(name, value))
    return fields


async def _parse(name: str, value: str | UploadFile) -> Any:
    if isinstance(value, UploadFile):
        return base64.b64encode(await value.read()).decode()
    is_text = (
        name in TEXT_FIELDS
        or (name in IMAGE_FIELDS and not value.startswith("{"))
        or (name in TEXT_LIST_FIELDS and not value.startswith("["))
    )
    if is_text or len(value) > MAX_JSON_CHARACTERS:
        return value
    try:
        return json.loads(value)
    except ValueError:
        # The field's own validation reports the wrong type.
        return value
