"""Bounds on the shape of JSON, checked before it is parsed.

Parsing holds Python's lock, so a body of many small values would stop all other requests, and each
unknown field would become an error of its own.
"""

from __future__ import annotations

from pydantic_core import from_json

from service.errors import InvalidRequest

# A mixture of eight embeddings has 32,760 commas, its prompts at most 8,000.
MAX_COMMAS = 50_000
# Prompts may have colons as well.
MAX_COLONS = 10_000
# Bodies with fewer colons cannot have an object of too many fields.
MAX_FIELDS = 100


class JsonShape:
    """Count what a body consists of while it arrives."""

    def __init__(self) -> None:
        self._commas = 0
        self._colons = 0

    def add(self, chunk: bytes) -> None:
        """Count a part of the body. Raises InvalidRequest if there is too much by now."""
        self._commas += chunk.count(b",")
        self._colons += chunk.count(b":")
        if self._commas > MAX_COMMAS or self._colons > MAX_COLONS:
            raise InvalidRequest(
                f"The body has more than {MAX_COMMAS} values or {MAX_COLONS} fields. Send fewer."
            )

    def check(self, body: bytes) -> None:
        """Check the whole body. Raises InvalidRequest if an object has too many fields.

        A body that is not JSON passes: the route rejects it.
        """
        if self._colons <= MAX_FIELDS:
            return
        try:
            value = from_json(body)
        except ValueError:
            return
        if (count := _most_fields(value)) > MAX_FIELDS:
            raise InvalidRequest(
                f"The body has an object of {count} fields. Send at most {MAX_FIELDS}."
            )


def _most_fields(value: object) -> int:
    """Return the number of fields of the largest object in parsed JSON."""
    most = 0
    pending = [value]
    while pending:
        current = pending.pop()
        if isinstance(current, dict):
            most = max(most, len(current))
            pending += current.values()
        elif isinstance(current, list):
            pending += current
    return most
