"""The service's settings, from the environment, checked at start."""

from __future__ import annotations

from pydantic import AnyHttpUrl, Field, RedisDsn
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Each field is the environment variable UNCLIP_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="UNCLIP_")

    redis_url: RedisDsn = Field(RedisDsn("redis://127.0.0.1:6379/0"), description="Where Redis is.")
    host: str = Field("127.0.0.1", description="Address the service listens on.")
    port: int = Field(8000, ge=1, le=65535, description="Port the service listens on.")
    public_url: AnyHttpUrl | None = Field(None, description="How others reach the service, for links; else taken from the request.")
    max_queued_jobs: int = Field(1000, ge=1, description="Waiting jobs beyond which new ones are refused (429).")
    max_wait: float = Field(120.0, ge=0, description="Longest wait, in seconds, that `Prefer: wait` is granted.")
    max_body_bytes: int = Field(1 << 20, ge=1024, description="Largest body of any other request, in bytes.")
    max_upload_bytes: int = Field(64 << 20, ge=1024, description="Largest body of a request that may carry pictures, in bytes.")
    max_picture_bytes: int = Field(20_000_000, ge=1024, description="Largest picture file, in bytes.")
    max_picture_pixels: int = Field(25_000_000, ge=1, description="Most pixels of a picture that is sent, known before it is decoded.")
    job_timeout: int = Field(600, ge=1, description="Seconds after which a running job is stopped and failed.")
    job_retries: int = Field(3, ge=0, description="How often a job is tried again after its worker died.")
    result_ttl: int = Field(86_400, ge=60, description="Seconds that an ended job and its pictures are kept.")
