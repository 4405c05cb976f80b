"""API keys: created, listed and revoked by the operator, and authenticated with each request.

A token is `unclip_ID_SECRET`. It is shown once; Redis stores its SHA-256. A slow hash, as for
passwords, protects guessable secrets. 256 random bits cannot be guessed, so it would only slow
down every request.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, Field

from contracts import redis_keys
from contracts.jobs import now
from service.errors import Unauthorized
from service.jobs.quota import Owner

TOKEN_PREFIX = "unclip_"
_TOKEN = re.compile(rf"{TOKEN_PREFIX}(?P<id>[0-9a-f]{{12}})_[0-9a-f]{{64}}")


class ApiKey(BaseModel):
    """A key as Redis stores it."""

    id: str
    name: str = Field(description="Name of its holder, for people.")
    digest: str = Field(description="SHA-256 of the token, in hex.")
    rate: str | None = Field(
        None, description="Maximum request rate, such as 60/minute; None for no limit."
    )
    max_jobs: int | None = Field(
        None, description="Maximum number of waiting and running jobs; None for no limit."
    )
    max_cost: int | None = Field(
        None, description="Maximum cost of one job, in steps at 1024²; None for no limit."
    )
    max_priority: int = Field(0, description="Highest priority of its jobs.")
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def inactive_reason(self) -> str | None:
        """Return why the key is not valid, such as "expired on 2026-01-31"; None if it is."""
        if self.revoked_at is not None:
            return f"was revoked on {self.revoked_at:%Y-%m-%d}"
        if self.expires_at is not None and self.expires_at <= now():
            return f"expired on {self.expires_at:%Y-%m-%d}"
        return None

    @property
    def owner(self) -> Owner:
        """The owner that jobs of this key belong to."""
        return Owner(self.id, self.max_jobs, self.max_cost, self.max_priority)


def create(
    redis: Any,
    name: str,
    *,
    rate: str | None = None,
    max_jobs: int | None = None,
    max_cost: int | None = None,
    max_priority: int = 0,
    days: float | None = None,
) -> tuple[ApiKey, str]:
    """Create a key and return it with its token, which is not stored. Blocking.

    days: lifetime in days; None for a key that never expires.
    """
    key_id = secrets.token_hex(6)
    created_at = now()
    token = f"{TOKEN_PREFIX}{key_id}_{secrets.token_hex(32)}"
    key = ApiKey(
        id=key_id,
        name=name,
        digest=_digest(token),
        rate=rate,
        max_jobs=max_jobs,
        max_cost=max_cost,
        max_priority=max_priority,
        created_at=created_at,
        expires_at=None if days is None else created_at + timedelta(days=days),
    )
    redis.hset(redis_keys.API_KEYS, key_id, key.model_dump_json())
    return key, token


def list_keys(redis: Any) -> list[ApiKey]:
    """Return all keys, revoked and expired ones too, oldest first. Blocking."""
    keys = [ApiKey.model_validate_json(text) for text in redis.hvals(redis_keys.API_KEYS)]
    return sorted(keys, key=lambda key: key.created_at)


def revoke(redis: Any, key_id: str) -> ApiKey | None:
    """Revoke a key immediately and return it; None if it does not exist. Blocking."""
    text = redis.hget(redis_keys.API_KEYS, key_id)
    if text is None:
        return None
    key = ApiKey.model_validate_json(text)
    key.revoked_at = key.revoked_at or now()
    redis.hset(redis_keys.API_KEYS, key_id, key.model_dump_json())
    return key


async def authenticate(redis: Any, token: str | None) -> ApiKey:
    """Return the key that a token belongs to.

    It is read from Redis each time, so a revoked key is invalid immediately.
    Raises Unauthorized (RFC 6750) if the token is missing, unknown, revoked or expired.
    """
    if token is None:
        raise _unauthorized(
            "This request needs an API key: send it as Authorization: Bearer unclip_… or as "
            "X-API-Key"
        )
    match = _TOKEN.fullmatch(token)
    text = await redis.hget(redis_keys.API_KEYS, match["id"] if match else "")
    # An unknown id is compared with a dummy, so every invalid token takes the same time.
    key = ApiKey.model_validate_json(text or _DUMMY_KEY)
    if not hmac.compare_digest(_digest(token), key.digest):
        raise _unauthorized(
            "The API key is not valid: send one as Authorization: Bearer unclip_…", "invalid_token"
        )
    if reason := key.inactive_reason():
        raise _unauthorized(f"The API key {key.id} {reason}: send another one", "invalid_token")
    return key


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _unauthorized(detail: str, error: str | None = None) -> Unauthorized:
    challenge = 'Bearer realm="unclip"' + (f', error="{error}"' if error else "")
    return Unauthorized(
        f"{detail}. The operator of this service creates keys.",
        headers={"WWW-Authenticate": challenge},
    )


_DUMMY_KEY = ApiKey(
    id="0" * 12, name="dummy", digest=secrets.token_hex(32), created_at=now()
).model_dump_json()
