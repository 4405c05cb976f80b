"""`python -m service keys`, as the operator runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from devtools.ports import free_port
from devtools.redis_server import RedisServer


def command(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"UNCLIP_REDIS_URL": url}
    return subprocess.run(
        [sys.executable, "-m", "service", "keys", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_a_key_is_made_listed_and_revoked(redis_server: RedisServer) -> None:
    """The token comes alone on stdout, this once; the list tells the limits and never the token."""
    made = command(
        redis_server.url,
        "create",
        "ann's laptop",
        "--rate",
        "60/minute",
        "--jobs",
        "10",
        "--expires",
        "30",
    )
    assert made.returncode == 0 and re.fullmatch(
        r"unclip_[0-9a-f]{12}_[0-9a-f]{64}\n", made.stdout
    ), made.stderr
    assert "shown this once" in made.stderr
    assert "UNCLIP_API_KEYS=required" in made.stderr
    key_id = made.stdout.split("_")[1]
    listed = command(redis_server.url, "list").stdout.splitlines()
    assert re.fullmatch(
        rf"{key_id}  ann's laptop  good   \d{{4}}-\d\d-\d\d  \d{{4}}-\d\d-\d\d  60/minute  0 of 10",
        listed[1],
    ), listed
    revoked = command(redis_server.url, "revoke", key_id)
    assert revoked.returncode == 0
    assert "was revoked on" in revoked.stdout
    assert "was revoked on" in command(redis_server.url, "list").stdout
    unknown = command(redis_server.url, "revoke", "nobody")
    assert unknown.returncode == 1
    assert "There is no API key 'nobody'" in unknown.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["create", ""], "'' is no name"),
        (["create", "ann", "--rate", "often"], "'often' is no rate: write a number"),
        (["create", "ann", "--rate", "0/minute"], "'0/minute' is no rate"),
        (["create", "ann", "--rate", "60/minutes"], "is no rate"),
        (["create", "ann", "--jobs", "0"], "'0' will not do: a whole number from 1"),
        (["create", "ann"], "does not answer"),
    ],
)
def test_what_will_not_do_is_said(arguments: list[str], said: str) -> None:
    """Without a traceback; at last, that there is no Redis."""
    ended = command(f"redis://127.0.0.1:{free_port()}/0", *arguments)
    assert ended.returncode != 0
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
