"""API keys: made, listed and revoked by the operator (`command.py`), and proved by requests (`gate.py`).

A token is `unclip_ID_SECRET`, shown when it is made and never again. Redis holds its SHA-256. A slow hash, as for passwords, hinders
guessing; 256 random bits are not guessed, so it would only slow down every request.
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
from service.api.problems import ProblemError

_TOKEN = re.compile(r"unclip_(?P<id>[0-9a-f]{12})_[0-9a-f]{64}")


class ApiKey(BaseModel):
    """A key as it lies in Redis."""

    id: str
    name: str = Field(description="Whose it is, for people.")
    digest: str = Field(description="SHA-256 of the token, in hex.")
    rate: str | None = Field(
        None, description="Most requests in a time, such as 60/minute; None for no limit."
    )
    jobs: int | None = Field(
        None, description="Most jobs that wait and run at a time; None for no limit."
    )
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def over(self) -> str | None:
        """Why it is good no more; None where it is."""
        if self.revoked_at is not None:
            return f"was revoked on {self.revoked_at:%Y-%m-%d}"
        if self.expires_at is not None and self.expires_at <= now():
            return f"expired on {self.expires_at:%Y-%m-%d}"
        return None


def create(
    redis: Any,
    name: str,
    *,
    rate: str | None = None,
    jobs: int | None = None,
    days: float | None = None,
) -> tuple[ApiKey, str]:
    """Make a key that is good for so many days, or for ever. The key, and its token, which nothing remembers."""
    key_id = secrets.token_hex(6)
    made = now()
    token = f"unclip_{key_id}_{secrets.token_hex(32)}"
    expires = None if days is None else made + timedelta(days=days)
    key = ApiKey(
        id=key_id,
        name=name,
        digest=_digest(token),
        rate=rate,
        jobs=jobs,
        created_at=made,
        expires_at=expires,
    )
    redis.hset(redis_keys.API_KEYS, key_id, key.model_dump_json())
    return key, token


def every(redis: Any) -> list[ApiKey]:
    """All keys, revoked and expired ones too, oldest first."""
    return sorted(
        map(ApiKey.model_validate_json, redis.hvals(redis_keys.API_KEYS)),
        key=lambda key: key.created_at,
    )


def revoke(redis: Any, key_id: str) -> ApiKey | None:
    """From now on the key is good for nothing. The key; None where there is none."""
    written = redis.hget(redis_keys.API_KEYS, key_id)
    if written is None:
        return None
    key = ApiKey.model_validate_json(written)
    key.revoked_at = key.revoked_at or now()
    redis.hset(redis_keys.API_KEYS, key_id, key.model_dump_json())
    return key


async def proved(redis: Any, token: str | None) -> ApiKey:
    """The key that a token proves. Looked up each time, so that a revoked one is good for nothing at once.

    ProblemError 401 where it is none, revoked or expired (RFC 6750)."""
    if token is None:
        raise _refused(
            "This needs an API key: send it as Authorization: Bearer unclip_…, or as X-API-Key"
        )
    found = _TOKEN.fullmatch(token)
    written = await redis.hget(redis_keys.API_KEYS, found["id"] if found else "")
    # Where there is no such key, nobody's is compared, so that a wrong token takes the same time whatever is wrong with it.
    key = ApiKey.model_validate_json(written or _NOBODYS)
    if not hmac.compare_digest(_digest(token), key.digest):
        raise _refused(
            "This service knows no such API key: send one as Authorization: Bearer unclip_…",
            "invalid_token",
        )
    if why := key.over():
        raise _refused(f"The API key {key.id} {why}: send another one", "invalid_token")
    return key


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _refused(detail: str, error: str | None = None) -> ProblemError:
    challenge = 'Bearer realm="unclip"' + (f', error="{error}"' if error else "")
    return ProblemError(
        401,
        f"{detail}. The service's operator makes them.",
        headers={"WWW-Authenticate": challenge},
    )


_NOBODYS = ApiKey(
    id="0" * 12, name="nobody", digest=secrets.token_hex(32), created_at=now()
).model_dump_json()
