"""Settings of the service, from the environment, checked at start."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AnyHttpUrl, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from infra.settings import CommonSettings

MIN_SECRET_BYTES = 24
MAX_SECRET_BYTES = 64
_CREATE_SECRET = (
    "create one: python3 -c 'import base64, secrets; "
    'print("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())\''
)


class Settings(CommonSettings):
    """Settings of the service. Each field is the environment variable UNCLIP_<FIELD>."""

    host: str = Field("127.0.0.1", description="Address that the service listens on.")
    port: int = Field(8000, ge=1, le=65535, description="Port that the service listens on.")
    public_url: AnyHttpUrl | None = Field(
        None,
        description=(
            "URL by which clients reach the service, for links. Default: that of the request."
        ),
    )
    api_keys: Literal["off", "required"] = Field(
        "off", description="Whether requests need an API key."
    )
    max_queued_jobs: int = Field(
        1000, ge=1, description="Limit of waiting jobs; beyond it requests are rejected with 429."
    )
    redis_min_replicas: int = Field(
        0,
        ge=0,
        description="Replicas of Redis that must hold a job before it is accepted.",
    )
    max_wait_s: float = Field(
        120.0, ge=0, description="Longest wait in seconds that `Prefer: wait` gets."
    )
    max_body_bytes: int = Field(
        1 << 20, ge=1024, description="Limit of the body of requests without images, in bytes."
    )
    max_upload_bytes: int = Field(
        64 << 20, ge=1024, description="Limit of the body of requests with images, in bytes."
    )
    max_image_bytes: int = Field(
        20_000_000, ge=1024, description="Limit of an input image's file, in bytes."
    )
    max_image_pixels: int = Field(
        25_000_000,
        ge=1,
        description="Limit of an input image's pixels, checked before it is decoded.",
    )
    max_request_pixels: int = Field(
        100_000_000,
        ge=1,
        description="Limit of the pixels of all input images of one request together.",
    )
    gallery_url: str | None = Field(
        None,
        description=(
            "Database of kept images: sqlite:///file.db or postgresql+psycopg://user@host/name. "
            "Default: no gallery."
        ),
    )
    gallery_files_url: str | None = Field(
        None,
        description=(
            "Where kept images are: file:///folder or s3://bucket/prefix. "
            "Default: a folder beside an SQLite file."
        ),
    )
    job_timeout_s: int = Field(
        600, ge=1, description="Seconds after which a running job is stopped and fails."
    )
    job_retries: int = Field(
        3, ge=0, description="Number of retries of a job whose worker crashed."
    )
    webhook_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Hosts that webhooks may call, such as *.example.org."
    )
    webhook_secret: SecretStr | None = Field(
        None,
        validate_default=True,
        description=(
            "Secret that signs webhooks: whsec_ and base64; several, with spaces, during a change."
        ),
    )
    webhook_allow_http: bool = Field(
        False, description="Whether webhook URLs may use http:// as well as https://."
    )
    webhook_allow_private_networks: bool = Field(
        False, description="Whether webhooks may call private networks and this machine."
    )
    webhook_timeout_s: float = Field(
        15.0, ge=0.1, le=300, description="Limit of one webhook attempt, in seconds."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins whose pages may call the service; * for all."
    )
    trusted_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description=(
            "Hosts that requests may name, such as *.example.org; * for all. Default: all, and on "
            "a loopback address localhost, 127.0.0.1, ::1 and the host of UNCLIP_PUBLIC_URL."
        ),
    )
    prompt_deny_list: Path | None = Field(
        None, description="File of words and phrases that no prompt may contain."
    )
    log_prompts: bool = Field(False, description="Whether the log contains prompts.")

    @field_validator("webhook_hosts", "cors_origins", "trusted_hosts", mode="before")
    @classmethod
    def _split_list(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return [host.strip().lower() for host in value.split(",") if host.strip()]

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/?#@]+", origin):
                raise ValueError(
                    f"{origin!r} is not an origin; use https://host or http://host:port, "
                    "without a slash at the end, or *"
                )
        return origins

    @field_validator("webhook_secret")
    @classmethod
    def _check_secrets(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        texts = secret.get_secret_value().split() if secret else []
        if info.data.get("webhook_hosts") and not texts:
            raise ValueError(
                f"UNCLIP_WEBHOOK_HOSTS needs a secret to sign webhooks; {_CREATE_SECRET}"
            )
        for text in texts:
            try:
                key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
            except binascii.Error as error:
                raise ValueError(f"it is not whsec_ and base64; {_CREATE_SECRET}") from error
            if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
                raise ValueError(
                    f"it has {len(key)} bytes, and must have {MIN_SECRET_BYTES} to "
                    f"{MAX_SECRET_BYTES}; {_CREATE_SECRET}"
                )
        return secret

    def webhook_keys(self) -> list[bytes]:
        """Return the decoded secrets of `webhook_secret`, which sign webhooks."""
        texts = self.webhook_secret.get_secret_value().split() if self.webhook_secret else []
        return [base64.b64decode(text.removeprefix("whsec_")) for text in texts]
