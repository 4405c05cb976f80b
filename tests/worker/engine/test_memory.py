"""How many rows the engine lets into a pass, by what one and two of them took."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from models import UnCLIP
from worker.engine.core import batch_limits
from worker.engine.memory import SHARE, fitted, peaks, rows_that_fit


class PixelMeter:
    """A device on which a step takes as many bytes as its rows have numbers, and 100 more."""

    def __init__(self, pipeline: UnCLIP, free: int) -> None:
        self.left = free
        self.taken = 0
        step = pipeline.step

        def metered(rows):
            self.taken = 100 + sum(row.x_t.numel() if row.x_t is not None else 1 for row in rows)
            step(rows)

        pipeline.step = metered

    def begin(self) -> None:
        self.taken = 0

    def peak(self) -> int:
        return self.taken

    def free(self) -> int:
        return self.left


@pytest.mark.parametrize(
    ("free", "one", "two", "fit"),
    [
        (1000, 200, 300, 9),  # 100 whatever the rows, and 100 a row
        (1000, 200, 200, 32),  # rows take nothing that could be measured
        (10, 200, 300, 1),  # not even one: it is tried, and fails alone
        (10**9, 200, 300, 32),  # never more than asked for
    ],
)
def test_rows_that_fit(free: int, one: int, two: int, fit: int) -> None:
    """Linear in the rows, between 1 and the limit."""
    assert rows_that_fit(free, one, two, most=32) == fit


def test_limits_come_down_to_what_the_device_has_room_for(tiny_checkpoint: Path) -> None:
    """Each stage by its own rows: a 1024² step takes 256 times what one at 64² does."""
    pipeline = UnCLIP.load(tiny_checkpoint)
    row = 3 * 64**2
    limits = fitted(
        batch_limits(512), pipeline, PixelMeter(pipeline, int((100 + 20.5 * row) / SHARE))
    )
    assert limits["decoder"] == 20
    assert limits["upsampler_256"] == 1
    assert limits["upsampler_1024"] == 1
    assert limits["text"] == 512
    assert limits["image"] == 512, "what was not drawn keeps its limit"


def test_every_stage_of_a_drawing_is_measured(tiny_checkpoint: Path) -> None:
    """With both priors."""
    pipeline = UnCLIP.load(tiny_checkpoint)
    found = peaks(pipeline, 1, PixelMeter(pipeline, 0))
    assert set(found) == {"text", "prior", "ar_prior", "decoder", "upsampler_256", "upsampler_1024"}
    assert found["upsampler_256"] == 100 + 3 * 256**2


def test_without_a_meter_the_limits_stay(tiny_checkpoint: Path) -> None:
    """On a CPU."""
    assert fitted(batch_limits(32), UnCLIP.load(tiny_checkpoint), None) == batch_limits(32)


def test_freed_memory_is_kept() -> None:
    """In a process of its own: blocks above 32 MiB come back without a page fault for each page of theirs."""
    program = """
import resource
import worker.engine.memory
if not worker.engine.memory.keep_freed_memory():
    raise SystemExit(77)
import torch
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(20_000_000)
before = faults()
for _ in range(5):
    torch.ones(20_000_000)
print(faults() - before)
"""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if ended.returncode == 77:
        pytest.skip("no glibc here")
    faults = int(ended.stdout)
    assert faults < 40_000, (
        f"{faults} page faults for 5 times 20,000 pages, of which one time may be new"
    )
