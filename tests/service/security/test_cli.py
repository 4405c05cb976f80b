"""`python -m service keys`, run as an operator runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from devtools.ports import free_port
from devtools.redis_server import RedisServer

TOKEN = r"unclip_[0-9a-f]{12}_[0-9a-f]{64}\n"


def run_keys(redis_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", "keys", *arguments],
        env=os.environ | {"UNCLIP_REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_a_key_is_created_listed_and_revoked(redis_server: RedisServer) -> None:
    """Only the token goes to stdout, once; the list shows limits and never the token."""
    options = ("--rate", "60/minute", "--jobs", "10", "--expires", "30")
    created = run_keys(redis_server.url, "create", "ann's laptop", *options)
    assert created.returncode == 0, created.stderr
    assert re.fullmatch(TOKEN, created.stdout)
    assert "the only time it is shown" in created.stderr
    assert "UNCLIP_API_KEYS=required" in created.stderr
    key_id = created.stdout.split("_")[1]
    row = run_keys(redis_server.url, "list").stdout.splitlines()[1]
    date = r"\d{4}-\d\d-\d\d"
    assert re.fullmatch(
        rf"{key_id}  ann's laptop  active  {date}  {date}  60/minute  0 of 10  -     0", row
    )
    revoked = run_keys(redis_server.url, "revoke", key_id)
    assert revoked.returncode == 0
    assert "was revoked on" in revoked.stdout
    assert "was revoked on" in run_keys(redis_server.url, "list").stdout


def test_an_unknown_key_cannot_be_revoked(redis_server: RedisServer) -> None:
    """The message says how to list the keys."""
    result = run_keys(redis_server.url, "revoke", "missing")
    assert result.returncode == 1
    assert "There is no API key 'missing'." in result.stderr
    assert "python -m service keys list" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create", ""], "expected 1 to 100 printable characters, got ''"),
        (["create", "ann", "--rate", "often"], "invalid rate 'often': expected <1-999999>/<second"),
        (["create", "ann", "--jobs", "0"], "expected an integer from 1 to 100000, got '0'"),
        (["create", "ann", "--expires", "1.5"], "expected an integer from 1 to 100000, got '1.5'"),
        (["create", "ann"], "Cannot reach Redis at redis://127.0.0.1:"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str) -> None:
    """Without a traceback."""
    result = run_keys(f"redis://127.0.0.1:{free_port()}/0", *arguments)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr
