"""API keys and requests that tests share."""

from __future__ import annotations

from typing import Any

import redis

from service.security import api_keys

CUBE: dict[str, Any] = {"prompt": "a red cube", "size": 64}
OPEN_PATHS = ("/", "/docs", "/docs/static/main.js", "/openapi.json", "/healthz", "/metrics")
MISSING_ID = "f" * 32
GUARDED = (
    ("POST", "/generate"),
    ("POST", "/edits"),
    ("GET", "/jobs"),
    ("GET", "/jobs/{id}"),
    ("DELETE", "/jobs/{id}"),
    ("GET", "/jobs/{id}/events"),
    ("GET", "/jobs/{id}/images/0.png"),
    ("GET", "/jobs/{id}/animation"),
)


def bearer(connection: redis.Redis, name: str = "ann", **limits: Any) -> dict[str, str]:
    """Create a key, and return the header that carries its token."""
    _, token = api_keys.create(connection, name, **limits)
    return {"authorization": f"Bearer {token}"}


def key_id(header: dict[str, str]) -> str:
    """Return the id of the key in a header."""
    return header["authorization"].split("_")[1]
