"""Settings: read from the environment and checked at start."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from service.app import create_app
from service.errors import InvalidSetting
from service.settings import Settings

INVALID = [
    ("REDIS_URL", "localhost", ""),
    ("PORT", "0", "Input should be greater than or equal to 1, got '0'"),
    ("MAX_WAIT_S", "long", ""),
    ("RESULT_TTL_S", "1", "Input should be greater than or equal to 60, got '1'"),
    (
        "OBJECT_STORE_URL",
        "images",
        "Value error, it is not a URL; use file:///folder or s3://bucket/prefix",
    ),
    (
        "CORS_ORIGINS",
        "https://a.example/",
        "Value error, 'https://a.example/' is not an origin; use https://host",
    ),
    ("PROMPT_DENY_LIST", "/missing", "cannot read /missing: [Errno 2]"),
    ("WEBHOOK_SECRET", "whsec_AAAA", "Value error, it has 3 bytes, and must have 24 to 64; create"),
    ("WEBHOOK_SECRET", "geheim!", "Value error, it is not whsec_ and base64"),
]


def start_service(**variables: str) -> subprocess.CompletedProcess[str]:
    """Start the service with these environment variables, and wait for its end."""
    return subprocess.run(
        [sys.executable, "-m", "service"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.mark.parametrize(("name", "value", "message"), INVALID)
def test_an_invalid_setting_ends_the_start(name: str, value: str, message: str) -> None:
    """The output has the setting's name, the value and the remedy, and no traceback."""
    process = start_service(**{f"UNCLIP_{name}": value})
    assert process.returncode == 1
    assert "Invalid settings:" in process.stderr
    assert f"UNCLIP_{name}: {message}" in process.stderr
    assert "Traceback" not in process.stderr


def test_webhooks_need_a_secret() -> None:
    """The output names the setting that is missing."""
    process = start_service(UNCLIP_WEBHOOK_HOSTS="*")
    assert process.returncode == 1
    assert "UNCLIP_WEBHOOK_SECRET: Value error, UNCLIP_WEBHOOK_HOSTS needs" in process.stderr


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("gallery_url", "nonsense://x", "UNCLIP_GALLERY_URL"),
        ("prompt_deny_list", "/missing/list.txt", "UNCLIP_PROMPT_DENY_LIST"),
    ],
)
def test_the_invalid_setting_is_named(field: str, value: str, name: str) -> None:
    """Also if only its use at the start shows that it is invalid."""
    with pytest.raises(InvalidSetting, match=name):
        create_app(Settings(**{field: value}))
