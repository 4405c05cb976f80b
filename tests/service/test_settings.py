"""Settings come from the environment and are checked at the start."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("UNCLIP_REDIS_URL", "localhost", "UNCLIP_REDIS_URL: "),
        ("UNCLIP_PORT", "0", "UNCLIP_PORT: Input should be greater than or equal to 1, got '0'"),
        ("UNCLIP_MAX_WAIT", "long", "UNCLIP_MAX_WAIT: "),
        (
            "UNCLIP_RESULT_TTL_S",
            "1",
            "UNCLIP_RESULT_TTL_S: Input should be greater than or equal to 60, got '1'",
        ),
        (
            "UNCLIP_OBJECT_STORE_URL",
            "images",
            "UNCLIP_OBJECT_STORE_URL: Value error, it is not a URL; use file:///folder or s3://bucket/prefix",
        ),
        (
            "UNCLIP_CORS_ORIGINS",
            "https://a.example/",
            "UNCLIP_CORS_ORIGINS: Value error, 'https://a.example/' is no origin; name https://host",
        ),
        (
            "UNCLIP_DENY_LIST",
            "/none",
            "UNCLIP_DENY_LIST: Value error, it cannot be read: [Errno 2]",
        ),
        (
            "UNCLIP_WEBHOOK_HOSTS",
            "*",
            "UNCLIP_WEBHOOK_SECRET: Value error, UNCLIP_WEBHOOK_HOSTS is set",
        ),
        (
            "UNCLIP_WEBHOOK_SECRET",
            "whsec_AAAA",
            "UNCLIP_WEBHOOK_SECRET: Value error, it holds 3 bytes, and 24 to 64 would do; make one: ",
        ),
        (
            "UNCLIP_WEBHOOK_SECRET",
            "geheim!",
            "UNCLIP_WEBHOOK_SECRET: Value error, it is not whsec_ and base64",
        ),
    ],
)
def test_a_setting_that_will_not_do_ends_the_start_and_is_named(
    name: str, value: str, message: str
) -> None:
    """With the value got and what would do, and without a traceback."""
    ended = subprocess.run(
        [sys.executable, "-m", "service"],
        env={**os.environ, name: value},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ended.returncode == 1
    assert message in ended.stderr
    assert "The settings will not do" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "SECRET" not in name or value not in ended.stderr
