"""A worker with an invalid setting exits at start and names the setting."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.settings import load_or_exit
from worker.settings import Settings
from worker.startup import start_engine


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    """The message names the setting, its value and what is wrong."""
    monkeypatch.setenv("UNCLIP_DEVICE", "cpu")
    monkeypatch.setenv(name, value.format(folder=tmp_path))
    with pytest.raises(SystemExit) as exit_info:
        start_engine(load_or_exit(Settings))
    assert message.format(folder=tmp_path) in str(exit_info.value.code)


def test_the_process_exits_without_a_traceback(tmp_path: Path) -> None:
    """It exits with 1, before it connects to Redis, although the engine's thread loads."""
    environment = os.environ | {"UNCLIP_DEVICE": "cpu", "UNCLIP_CHECKPOINT": str(tmp_path)}
    completed = subprocess.run(
        [sys.executable, "-m", "worker"],
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert completed.returncode == 1
    assert f"Cannot load checkpoint: {tmp_path}" in completed.stderr
    assert "Traceback" not in completed.stderr
