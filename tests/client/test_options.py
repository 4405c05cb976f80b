"""What the client's types say is what the service takes."""

from __future__ import annotations

import inspect
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest

from service.requests.models import REQUESTS
from unclip_client import options
from unclip_client.client import Operations

METHODS = {
    "generate": options.Generate,
    "variations": options.Variations,
    "interpolate": options.Interpolate,
    "text-diff": options.TextDiff,
    "edit": options.Edit,
    "probe": options.Probe,
    "embeddings": options.Queued,
}


def plain(hint: Any) -> Any:
    """A type without bounds, words, and None."""
    if get_origin(hint) is Annotated:
        return plain(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        (one,) = (part for part in get_args(hint) if part is not NoneType)
        return plain(one)
    return list[plain(get_args(hint)[0])] if get_origin(hint) is list else hint  # type: ignore[misc]


def test_there_is_a_method_for_every_operation() -> None:
    """And no other."""
    assert METHODS.keys() == REQUESTS.keys()
    methods = {
        name.replace("_", "-")
        for name, _ in inspect.getmembers(Operations, inspect.isfunction)
        if not name.startswith("_")
    }
    assert methods == METHODS.keys()


@pytest.mark.parametrize("operation", METHODS)
def test_every_field_is_there_with_its_type(operation: str) -> None:
    """As an option, or as an argument of the method. The key goes as a header."""
    fields = REQUESTS[operation].model_fields
    hints = get_type_hints(METHODS[operation], include_extras=True)
    method = inspect.signature(getattr(Operations, operation.replace("-", "_"))).parameters
    assert hints.keys() | method.keys() - {"self", "options"} == fields.keys() | {"idempotency_key"}
    for name in hints.keys() - {"idempotency_key"}:
        assert plain(hints[name]) == plain(fields[name].annotation), name
