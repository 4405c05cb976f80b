"""A worker with an invalid setting exits at start and names the setting."""

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
            "UNCLIP_MAX_BATCH_SIZE",
            "0",
            "Invalid settings:\n  UNCLIP_MAX_BATCH_SIZE: "
            "Input should be greater than or equal to 1, got '0'",
        ),
        (
            "UNCLIP_CHECKPOINT",
            "{folder}",
            "Cannot load checkpoint: {folder} is not a checkpoint folder: it has no config.json",
        ),
        (
            "UNCLIP_CONTENT_FILTER",
            "{folder}",
            "Invalid settings:\n  UNCLIP_CONTENT_FILTER: it cannot be read: [Errno 21]",
        ),
        (
            "UNCLIP_UPSAMPLER",
            "{folder}/x4.pth",
            "{folder}/x4.pth is neither a checkpoint folder nor a file of a x4 model",
        ),
        ("UNCLIP_DEVICE", "abacus", "Cannot use UNCLIP_DEVICE='abacus': "),
    ],
)
def test_an_invalid_setting_ends_the_start(
    tmp_path: Path, name: str, value: str, message: str
) -> None:
    """Without a traceback, and before the worker connects to Redis."""
    folder = str(tmp_path)
    environment = os.environ | {
        "UNCLIP_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
        name: value.format(folder=folder),
    }
    completed = subprocess.run(
        [sys.executable, "-m", "worker"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert completed.returncode == 1
    assert message.format(folder=folder) in completed.stderr
    assert "Traceback" not in completed.stderr
