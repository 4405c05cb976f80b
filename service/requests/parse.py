"""From a body, JSON or multipart/form-data, to work that can be queued: checked fields, and images ready for the worker."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from contracts.fields import RequestFields
from contracts.images import has_alpha, normalize_image
from contracts.operations import OPERATIONS
from contracts.webhooks import Webhook
from service.errors import BadRequest, InvalidRequest, ServiceError, UnsupportedMediaType
from service.requests.images import ImageError, from_base64, opened
from service.requests.models import IMAGE_FIELDS, REQUESTS, ImageRef, split_images
from service.settings import Settings
from service.webhooks import policy

Fetch = Callable[[str, int], Awaitable[bytes | None]]


@dataclass(frozen=True)
class Work:
    """What is queued: an operation, its fields, and its images as PNG by name."""

    operation: str
    fields: RequestFields
    images: dict[str, bytes] = field(default_factory=dict)
    webhook: Webhook | None = None


async def read(request: Request, operation: str, settings: Settings, fetch: Fetch) -> Work:
    """The work that a request's body asks for. `fetch(job, index)` gives the PNG of an earlier job, or None.

    RequestValidationError for fields that do not do, ServiceError for a body or an image that does not."""
    asked = REQUESTS[operation]
    try:
        parsed = asked.model_validate(await _body(request, operation, asked))
        fields, sources = split_images(parsed)
        work = OPERATIONS[operation].model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error
    webhook = policy.webhook_from_request(
        parsed, str(settings.public_url or request.base_url).rstrip("/"), settings
    )
    files = {name: await _content(name, source, fetch) for name, source in sources.items()}
    images = await run_in_threadpool(_normalized, operation, files, settings) if files else {}
    return Work(operation, work, images, webhook)


async def _body(request: Request, operation: str, asked: type[RequestFields]) -> Any:
    media = media_type(request)
    if media == "application/json":
        return await json_body(request)
    if media == "multipart/form-data" and operation != "generate":
        return await _form(request, asked)
    takes = "JSON, with Content-Type: application/json" + (
        "" if operation == "generate" else ", or multipart/form-data with the images as files"
    )
    raise UnsupportedMediaType(f"The body is {media or 'of no stated type'}: send {takes}.")


def media_type(request: Request) -> str:
    """What the body is said to be, without parameters; empty where nothing is said."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


async def json_body(request: Request) -> Any:
    """The body as JSON. BadRequest if it is none."""
    try:
        return json.loads(await request.body())
    except json.JSONDecodeError as error:
        detail = (
            f"The body is not JSON: {error.msg} (at character {error.pos}). Send one JSON object."
        )
        raise BadRequest(detail) from error
    except (
        ValueError,
        RecursionError,
    ) as error:  # not UTF-8, a number of a million digits, brackets without end
        raise BadRequest(
            "The body could not be read as JSON. Send one JSON object, in UTF-8."
        ) from error


async def _form(request: Request, asked: type[RequestFields]) -> dict[str, Any]:
    """A form as the JSON object that would say the same."""
    body: dict[str, Any] = {}
    properties = asked.model_json_schema()["properties"]
    try:
        async with request.form(max_files=4, max_fields=200) as form:
            for name in form:
                values = [
                    await _value(value, properties.get(name, {})) for value in form.getlist(name)
                ]
                several = "array" in _types(properties.get(name, {})) and not (
                    len(values) == 1 and isinstance(values[0], list)
                )
                if len(values) > 1 and not several:
                    raise _refused(name, f"it came {len(values)} times; send it once")
                body[name] = values if several else values[0]
    except Exception as error:
        if isinstance(error, ServiceError):
            raise
        raise BadRequest(
            f"The form could not be read ({str(getattr(error, 'detail', error))[:200]}). Send it as multipart/form-data.",
        ) from error
    return body


async def _value(value: str | UploadFile, schema: dict[str, Any]) -> Any:
    if isinstance(value, UploadFile):
        return base64.b64encode(await value.read()).decode()
    types = _types(schema)
    if "string" in types and not (value.startswith("{") and "object" in types):
        return value
    items = _types(schema.get("items", {}))
    if "array" in types and not value.startswith("[") and "string" in items:
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value  # of the wrong type: its field says so


def _types(schema: dict[str, Any]) -> set[str]:
    """The JSON types that a field's schema allows."""
    found = {schema["type"]} if isinstance(schema.get("type"), str) else set()
    if "$ref" in schema:
        found.add("object")
    return found.union(*(_types(part) for part in schema.get("anyOf", [])))


async def _content(name: str, source: str | ImageRef, fetch: Fetch) -> bytes:
    if isinstance(source, ImageRef):
        content = await fetch(source.job, source.index)
        if content is None:
            raise _refused(
                name, f"there is no image {source.index} of a job {source.job!r} (any more)"
            )
        return content
    try:
        return from_base64(source)
    except ImageError as error:
        raise _refused(name, str(error)) from error


def _normalized(operation: str, files: dict[str, bytes], settings: Settings) -> dict[str, bytes]:
    images = {}
    for name, content in files.items():
        try:
            images[name] = opened(content, settings.max_image_bytes, settings.max_image_pixels)
        except ImageError as error:
            raise _refused(name, str(error)) from error
    if operation == "edit":
        base = images["image"]
        if "mask" not in images and not has_alpha(base):
            raise _refused(
                "mask",
                "there is none, and the image has no transparent part: send a mask, white where to redraw",
            )
        mask = images.setdefault("mask", base)
        if mask.size != base.size:
            raise _refused(
                "mask",
                f"it is {mask.width}×{mask.height} and the image {base.width}×{base.height}: send one of the same size",
            )
    return {
        name: normalize_image(decoded, "mask" if name == "mask" else "image")
        for name, decoded in images.items()
    }


def _refused(name: str, reason: str) -> InvalidRequest:
    field = name.replace("mix_", "mix.") + ".image" if name.startswith("mix_") else name
    return InvalidRequest.from_field(field, reason)


def schema_of(operation: str) -> dict[str, Any]:
    """OpenAPI's requestBody: JSON, and for operations with images the same as a form with files."""
    asked = REQUESTS[operation].__name__
    content: dict[str, Any] = {
        "application/json": {"schema": {"$ref": f"#/components/schemas/{asked}"}}
    }
    if operation != "generate":
        content["multipart/form-data"] = {"schema": {"$ref": f"#/components/schemas/{asked}Form"}}
    return {"required": True, "content": content}


def schemas() -> dict[str, Any]:
    """The requests' own schemas, for the document's components."""
    found: dict[str, Any] = {}
    for operation, asked in REQUESTS.items():
        schema = asked.model_json_schema(ref_template="#/components/schemas/{model}")
        found.update(schema.pop("$defs", {}))
        found[asked.__name__] = schema
        if operation != "generate":
            file = {"type": "string", "format": "binary"}
            files = {
                name: part | file
                for name in IMAGE_FIELDS
                if (part := _plain(schema["properties"].get(name))) is not None
            }
            found[f"{asked.__name__}Form"] = schema | {
                "title": f"{asked.__name__}Form",
                "properties": schema["properties"] | files,
            }
    return found


def _plain(part: dict[str, Any] | None) -> dict[str, Any] | None:
    return (
        None
        if part is None
        else {key: value for key, value in part.items() if key in ("title", "description")}
    )
