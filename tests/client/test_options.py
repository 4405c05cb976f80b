"""The client's option types agree with the service's request models."""

from __future__ import annotations

import inspect
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest

from contracts.operations import OPERATIONS
from unclip_client import options
from unclip_client.client import Operations

OPTIONS = {
    "generate": options.GenerateOptions,
    "variations": options.VariationsOptions,
    "interpolate": options.InterpolateOptions,
    "text-diff": options.TextDiffOptions,
    "edit": options.EditOptions,
    "probe": options.ProbeOptions,
    "embeddings": options.QueueOptions,
}


def strip_type(hint: Any) -> Any:
    """Return a type without bounds, descriptions and None."""
    if get_origin(hint) is Annotated:
        return strip_type(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        (one,) = (part for part in get_args(hint) if part is not NoneType)
        return strip_type(one)
    if get_origin(hint) is list:
        return list[strip_type(get_args(hint)[0])]  # type: ignore[misc]
    return hint


def test_every_operation_has_a_method() -> None:
    """The client has a method for each operation of the service, and no other."""
    functions = inspect.getmembers(Operations, inspect.isfunction)
    methods = {name.replace("_", "-") for name, _ in functions if not name.startswith("_")}
    assert methods == OPTIONS.keys()
    assert methods == OPERATIONS.keys()


# Choices that only the service checks, so that a new one needs no new client.
OPEN_CHOICES = {"sampler"}


@pytest.mark.parametrize("operation", OPTIONS)
def test_every_field_has_its_type(operation: str) -> None:
    """Each field is an option or an argument of the method; the key is sent as a header."""
    fields = OPERATIONS[operation].model_fields
    hints = get_type_hints(OPTIONS[operation], include_extras=True)
    method = inspect.signature(getattr(Operations, operation.replace("-", "_"))).parameters
    names = hints.keys() | method.keys() - {"self", "options"}
    assert names == fields.keys() | {"idempotency_key"}
    for name in hints.keys() - {"idempotency_key"} - OPEN_CHOICES:
        assert strip_type(hints[name]) == strip_type(fields[name].annotation), name
