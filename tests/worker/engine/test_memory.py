"""Maximum rows of a pass, by the memory that one and two rows took."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from models import Row, UnCLIP
from models.stages import STAGE_NAMES
from models.stages.diffusion import DiffusionState
from worker.engine.memory import (
    USABLE_SHARE,
    batch_limits,
    fit_batch_limits,
    max_rows,
    measure_peaks,
)

ROW_64_VALUES = 3 * 64**2


class PixelMeter:
    """A device on which a step takes 100 bytes, and one for each number of its rows' images."""

    def __init__(self, pipeline: UnCLIP, free_bytes: int) -> None:
        self._free_bytes = free_bytes
        self._peak_bytes = 0
        step = pipeline.step

        def metered_step(rows: Sequence[Row]) -> None:
            self._peak_bytes = 100 + sum(_num_values(row) for row in rows)
            step(rows)

        pipeline.step = metered_step  # type: ignore[method-assign]

    def reset(self) -> None:
        self._peak_bytes = 0

    def peak_bytes(self) -> int:
        return self._peak_bytes

    def free_bytes(self) -> int:
        return self._free_bytes


def _num_values(row: Row) -> int:
    return row.state.x_t.numel() if isinstance(row.state, DiffusionState) else 1


def test_limits_fall_with_the_number_of_pixels() -> None:
    """16 times the pixels, a sixteenth of the rows, and at least one."""
    limits = batch_limits(32)
    assert limits.pop("upsampler_256") == 2
    assert limits.pop("upsampler_1024") == 1
    assert set(limits.values()) == {32}
    assert {"text", "prior", "decoder", "image", "inversion"} <= set(limits)
    assert batch_limits(1) == dict.fromkeys(STAGE_NAMES, 1)


@pytest.mark.parametrize(
    ("free", "one", "two", "expected"),
    [
        pytest.param(1000, 200, 300, 9, id="100 fixed, 100 a row"),
        pytest.param(1000, 200, 200, 32, id="rows without measurable memory"),
        pytest.param(10, 200, 300, 1, id="not even one: it is tried, and fails alone"),
        pytest.param(10**9, 200, 300, 32, id="no more than the limit"),
    ],
)
def test_rows_that_fit(free: int, one: int, two: int, expected: int) -> None:
    """Memory is linear in the rows; the result is between 1 and the limit."""
    assert max_rows(free, one, two, limit=32) == expected


def test_limits_fall_to_what_fits_into_the_device(tiny_checkpoint: Path) -> None:
    """Each stage by its own rows: a step at 1024² takes 256 times the memory of one at 64²."""
    pipeline = UnCLIP.load(tiny_checkpoint)
    meter = PixelMeter(pipeline, int((100 + 20.5 * ROW_64_VALUES) / USABLE_SHARE))
    limits = fit_batch_limits(batch_limits(512), pipeline, meter)
    assert limits["decoder"] == 20
    assert limits["upsampler_256"] == 1
    assert limits["upsampler_1024"] == 1
    assert limits["text"] == 512
    # Stages that text-to-image does not use are not measured.
    assert limits["image"] == 512


def test_every_stage_of_both_priors_is_measured(tiny_checkpoint: Path) -> None:
    pipeline = UnCLIP.load(tiny_checkpoint)
    peaks = measure_peaks(pipeline, 1, PixelMeter(pipeline, 0))
    assert set(peaks) == {"text", "prior", "ar_prior", "decoder", "upsampler_256", "upsampler_1024"}
    assert peaks["upsampler_256"] == 100 + 3 * 256**2


def test_limits_stay_without_a_meter(tiny_checkpoint: Path) -> None:
    """A CPU has none."""
    pipeline = UnCLIP.load(tiny_checkpoint)
    assert fit_batch_limits(batch_limits(32), pipeline, None) == batch_limits(32)


def test_malloc_reuses_freed_memory() -> None:
    """Blocks above 32 MiB are allocated again without a page fault for each of their pages."""
    program = """
import resource
import worker.engine.memory
if not worker.engine.memory.tune_malloc():
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
    completed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if completed.returncode == 77:
        pytest.skip("this system has no glibc")
    # Five tensors have 20,000 pages each; one of them may be new.
    assert int(completed.stdout) < 40_000
