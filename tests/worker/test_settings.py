"""A worker that cannot work says so at its start, by the setting's name, and ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "UNCLIP_MAX_BATCH",
            "0",
            "Invalid settings:\n  UNCLIP_MAX_BATCH: Input should be greater than or equal to 1, got '0'",
        ),
        (
            "UNCLIP_CHECKPOINT",
            "{folder}",
            "The checkpoint will not do: {folder} is not a checkpoint folder: it has no config.json",
        ),
        (
            "UNCLIP_CONTENT_CHECK",
            "{folder}",
            "UNCLIP_CONTENT_CHECK: Value error, it cannot be read: [Errno 21]",
        ),
        (
            "UNCLIP_UPSAMPLER",
            "{folder}/x4.pth",
            "{folder}/x4.pth is neither a checkpoint folder nor a file of a x4 model",
        ),
        (
            "UNCLIP_DEVICE",
            "abacus",
            "The device will not do: UNCLIP_DEVICE is 'abacus', and torch says: ",
        ),
    ],
)
def test_what_will_not_do_ends_the_start_and_is_named(
    tmp_path: Path, name: str, value: str, message: str
) -> None:
    """Without a traceback, and before Redis is looked for."""
    folder = str(tmp_path)
    environment = os.environ | {
        "UNCLIP_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
        name: value.format(folder=folder),
    }
    command = [sys.executable, "-m", "worker"]
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 1
    assert message.format(folder=folder) in ended.stderr
    assert "Traceback" not in ended.stderr
