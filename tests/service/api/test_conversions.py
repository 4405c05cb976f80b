"""How often one `POST /generate` encodes or decodes its data."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, TypeAdapter
from support.service_jobs import CUBE

pytestmark = pytest.mark.anyio
MAX_CONVERSIONS = 12
COUNTED: list[tuple[Any, str]] = [
    (json, "loads"),
    (json, "dumps"),
    (BaseModel, "model_validate"),
    (BaseModel, "model_validate_json"),
    (BaseModel, "model_dump"),
    (BaseModel, "model_dump_json"),
    (TypeAdapter, "validate_python"),
    (TypeAdapter, "validate_json"),
    (TypeAdapter, "dump_python"),
    (TypeAdapter, "dump_json"),
]


def count_calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the calls of all functions that encode or decode, by name."""
    calls = Counter[str]()

    def count(owner: Any, name: str) -> None:
        original = getattr(owner, name)
        is_class_method = hasattr(original, "__self__")

        def counted(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            if is_class_method:
                return original.__func__(*args, **kwargs)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, classmethod(counted) if is_class_method else counted)

    for owner, name in COUNTED:
        count(owner, name)
    return calls


async def test_a_request_is_converted_a_few_times(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The body is parsed once, the record written once, and the response made from memory."""
    calls = count_calls(monkeypatch)
    body = json.dumps(CUBE).encode()
    calls.clear()
    response = await client.post(
        "/generate", content=body, headers={"content-type": "application/json"}
    )
    assert response.status_code == 202
    assert calls["model_validate_json"] == 1
    assert calls.total() <= MAX_CONVERSIONS, calls


async def test_an_idempotent_request_is_converted_a_few_times_more(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fingerprint needs the fields, and Redis stores it."""
    calls = count_calls(monkeypatch)
    body = json.dumps(CUBE).encode()
    calls.clear()
    headers = {"content-type": "application/json", "idempotency-key": "k"}
    assert (await client.post("/generate", content=body, headers=headers)).status_code == 202
    assert calls.total() <= MAX_CONVERSIONS, calls
