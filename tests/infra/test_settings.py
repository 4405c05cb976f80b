"""Shared settings, and the message about invalid ones."""

from __future__ import annotations

import pytest
from pydantic import Field, SecretStr

from infra.settings import CommonSettings, load_or_exit


class Example(CommonSettings):
    """Settings of an imaginary process."""

    example_secret: SecretStr | None = Field(None, min_length=5, description="A secret.")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("UNCLIP_RESULT_TTL_S", "1", "UNCLIP_RESULT_TTL_S: Input should be greater than or equal"),
        ("UNCLIP_LOG_LEVEL", "loud", "UNCLIP_LOG_LEVEL: Input should be 'debug', 'info'"),
        ("UNCLIP_OBJECT_STORE_URL", "images", "it is not a URL; use file:///folder or s3://bucket"),
        ("UNCLIP_REDIS_URL", "http://u:hidden@h", "URL scheme should be 'redis' or 'rediss'"),
    ],
)
def test_invalid_settings_end_the_process(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    """The message names the variable, the fault and the value, without passwords."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as exit_info:
        load_or_exit(Example)
    text = str(exit_info.value)
    assert text.startswith(f"Invalid settings:\n  {name}: ")
    assert message in text
    assert "hidden" not in text


def test_the_message_leaves_secrets_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value of a setting called secret is not repeated."""
    monkeypatch.setenv("UNCLIP_EXAMPLE_SECRET", "abcd")
    with pytest.raises(SystemExit) as exit_info:
        load_or_exit(Example)
    assert "UNCLIP_EXAMPLE_SECRET" in str(exit_info.value)
    assert "abcd" not in str(exit_info.value)


def test_valid_settings_are_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """They come from the environment, with defaults."""
    monkeypatch.setenv("UNCLIP_RESULT_TTL_S", "60")
    settings = load_or_exit(Example)
    assert settings.result_ttl_s == 60
    assert settings.log_format == "auto"
