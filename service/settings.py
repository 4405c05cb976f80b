"""The service's settings, from the environment, checked at start."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AnyHttpUrl, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from infra.settings import CommonSettings
from service.requests.prompt_filter import DenyList

_MAKE_ONE = "make one: python3 -c 'import base64, secrets; print(\"whsec_\" + base64.b64encode(secrets.token_bytes(32)).decode())'"


class Settings(CommonSettings):
    """Each field is the environment variable UNCLIP_<FIELD>."""

    host: str = Field("127.0.0.1", description="Address the service listens on.")
    port: int = Field(8000, ge=1, le=65535, description="Port the service listens on.")
    public_url: AnyHttpUrl | None = Field(
        None, description="How others reach the service, for links; else taken from the request."
    )
    api_keys: Literal["off", "required"] = Field(
        "off", description="Whether requests need an API key."
    )
    max_queued_jobs: int = Field(
        1000, ge=1, description="Waiting jobs beyond which new ones are refused (429)."
    )
    max_wait: float = Field(
        120.0, ge=0, description="Longest wait, in seconds, that `Prefer: wait` is granted."
    )
    max_body_bytes: int = Field(
        1 << 20, ge=1024, description="Largest body of any other request, in bytes."
    )
    max_upload_bytes: int = Field(
        64 << 20, ge=1024, description="Largest body of a request that may carry images, in bytes."
    )
    max_image_bytes: int = Field(20_000_000, ge=1024, description="Largest image file, in bytes.")
    max_image_pixels: int = Field(
        25_000_000,
        ge=1,
        description="Most pixels of an image that is sent, known before it is decoded.",
    )
    job_timeout: int = Field(
        600, ge=1, description="Seconds after which a running job is stopped and failed."
    )
    job_retries: int = Field(
        3, ge=0, description="How often a job is tried again after its worker died."
    )
    webhook_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Hosts that webhooks may be at, such as *.example.org."
    )
    webhook_secret: SecretStr | None = Field(
        None,
        validate_default=True,
        description="What webhooks are signed with: whsec_ and base64; several, with spaces, during a change.",
    )
    webhook_allow_http: bool = Field(
        False, description="Whether webhook URLs may use http:// as well as https://."
    )
    webhook_allow_private_networks: bool = Field(
        False, description="Whether webhooks may be in private networks and on this machine."
    )
    webhook_timeout_s: float = Field(
        15.0, ge=0.1, le=300, description="Seconds that one attempt at a webhook may last."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins whose pages may call the service; * for all."
    )
    trusted_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Hosts that requests may be for, such as *.example.org."
    )
    deny_list: Path | None = Field(None, description="File of words that no caption may hold.")
    log_prompts: bool = Field(False, description="Whether the log tells the captions of jobs.")

    @field_validator("webhook_hosts", "cors_origins", "trusted_hosts", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Hosts or origins from a text with commas."""
        return (
            [host.strip().lower() for host in value.split(",") if host.strip()]
            if isinstance(value, str)
            else value
        )

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/?#@]+", origin):
                raise ValueError(
                    f"{origin!r} is no origin; name https://host or http://host:port, without a slash at the end, or *"
                )
        return origins

    @field_validator("deny_list")
    @classmethod
    def _readable(cls, path: Path | None) -> Path | None:
        if path is not None:
            DenyList(path)
        return path

    @field_validator("webhook_secret")
    @classmethod
    def _keys(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        texts = secret.get_secret_value().split() if secret else []
        if info.data.get("webhook_hosts") and not texts:
            raise ValueError(
                f"UNCLIP_WEBHOOK_HOSTS is set, so webhooks are to be signed, and there is no secret; {_MAKE_ONE}"
            )
        for text in texts:
            try:
                key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
            except binascii.Error as error:
                raise ValueError(f"it is not whsec_ and base64; {_MAKE_ONE}") from error
            if not 24 <= len(key) <= 64:
                raise ValueError(f"it holds {len(key)} bytes, and 24 to 64 would do; {_MAKE_ONE}")
        return secret

    def webhook_keys(self) -> list[bytes]:
        """The secrets of `webhook_secret`, as they go into the signature."""
        texts = self.webhook_secret.get_secret_value().split() if self.webhook_secret else []
        return [base64.b64decode(text.removeprefix("whsec_")) for text in texts]
