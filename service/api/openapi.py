"""The OpenAPI document: request bodies, problems and security schemes."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from contracts.fields import IMAGE_FIELDS
from contracts.operations import OPERATIONS
from service.api.problems import Problem, responses
from service.openai.errors import PREFIX as OPENAI_PREFIX
from service.security.middleware import describe_security

REF_TEMPLATE = "#/components/schemas/{model}"
_FILE = {"type": "string", "format": "binary"}
PNG_CONTENT = {"image/png": {"schema": _FILE}}
ANIMATION_CONTENT = {"image/webp": {"schema": _FILE}, "image/apng": {"schema": _FILE}}
EVENTS_CONTENT = {"text/event-stream": {"schema": {"type": "string"}}}
NOT_MODIFIED = {"description": "The client has it already, by If-None-Match."}


def request_body(operation: str) -> dict[str, Any]:
    """Return OpenAPI's requestBody: JSON, and a form with files for operations with images."""
    name = OPERATIONS[operation].__name__
    content = {"application/json": {"schema": {"$ref": REF_TEMPLATE.format(model=name)}}}
    if operation != "generate":
        reference = {"$ref": REF_TEMPLATE.format(model=f"{name}Form")}
        content["multipart/form-data"] = {"schema": reference}
    return {"required": True, "content": content}


def request_schemas() -> dict[str, Any]:
    """Return the schemas of all requests, for the document's components."""
    schemas: dict[str, Any] = {}
    for operation, model in OPERATIONS.items():
        schema = model.model_json_schema(ref_template=REF_TEMPLATE)
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
        if operation != "generate":
            title = f"{model.__name__}Form"
            properties = schema["properties"]
            files = {
                name: _as_file(properties[name]) for name in IMAGE_FIELDS if name in properties
            }
            schemas[title] = schema | {"title": title, "properties": properties | files}
    return schemas


def describe(app: FastAPI, *, keys_required: bool) -> None:
    """Complete the app's OpenAPI document.

    It gets the schemas of requests and problems, and security if keys are required. FastAPI's own
    validation error is removed, for OpenAI's routes with its status: they respond 400.
    """
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for path, methods in document["paths"].items():
            if path.startswith(OPENAI_PREFIX):
                for operation in methods.values():
                    operation["responses"].pop("422", None)
        problem = Problem.model_json_schema(ref_template=REF_TEMPLATE)
        schemas.update(problem.pop("$defs", {}))
        schemas.update({"Problem": problem} | request_schemas())
        if keys_required:
            describe_security(document, responses(401, 429))
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _as_file(schema: dict[str, Any]) -> dict[str, Any]:
    texts = ("title", "description")
    return {key: schema[key] for key in texts if key in schema} | _FILE
