"""Settings that service and worker share, and the check of all settings at start."""

from __future__ import annotations

import sys
from typing import Literal, TypeVar

from pydantic import Field, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.redis_url import RedisUrl, redact_credentials
from infra.object_store import ObjectStore

PREFIX = "UNCLIP_"
SettingsT = TypeVar("SettingsT", bound=BaseSettings)


class CommonSettings(BaseSettings):
    """Read the settings of any process. Each field is the environment variable UNCLIP_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    redis_url: RedisUrl = Field(
        "redis://127.0.0.1:6379/0", description="URL of the Redis server or of its Sentinels."
    )
    object_store_url: str | None = Field(
        None,
        description=(
            "Object store for images: file:///folder or s3://bucket/prefix. Default: Redis."
        ),
    )
    result_ttl_s: int = Field(
        86_400, ge=60, description="Seconds until an ended job and its images are deleted."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="Log format; auto writes JSON unless stderr is a terminal."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level that is logged."
    )

    @field_validator("object_store_url")
    @classmethod
    def _check_object_store(cls, url: str | None) -> str | None:
        if url:
            ObjectStore(url)
        return url


def load_or_exit(cls: type[SettingsT]) -> SettingsT:
    """Load settings from the environment. Exit and list every invalid one if there are any."""
    try:
        return cls()
    except ValidationError as error:
        faults = "\n".join(_describe(fault) for fault in error.errors())
        sys.exit(f"Invalid settings:\n{faults}")


def _describe(fault: ErrorDetails) -> str:
    name = str(fault["loc"][0]) if fault["loc"] else ""
    # The value of a secret must not reach a log.
    is_secret = "secret" in name
    value = "" if is_secret else redact_credentials(f", got {fault['input']!r}")
    return f"  {PREFIX}{name.upper()}: {fault['msg']}{value}"
