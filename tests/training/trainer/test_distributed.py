"""Two processes learn the same as one with the same global batch.

They are started by torchrun on the CPU (gloo).
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[3]
# Losses of one and two processes differ by the order of summation.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of twelve images with captions."""
    folder = tmp_path_factory.mktemp("images")
    for k in range(12):
        Image.linear_gradient("L").rotate(30 * k).convert("RGB").save(folder / f"{k}.png")
        (folder / f"{k}.txt").write_text(f"a gradient turned by {30 * k} degrees")
    return folder


# The command line's own `main`, with plans for the tiny checkpoint.
PROGRAM = """
import sys
from dataclasses import replace
from functools import partial
from training import __main__, presets, run
tune = presets.PRESETS["tune"]
short = {"steps": 6, "batch": 4, "lr": 1e-2, "warmup": 2, "sharded": "--sharded" in sys.argv}
plans = {name: replace(plan, **short) for name, plan in tune.plans.items()}
presets.PRESETS["tune"] = replace(tune, plans=plans)
if "--half" in sys.argv:
    run.train = partial(run.train, stop_after=3)
sys.argv = [argument for argument in sys.argv if argument not in ("--sharded", "--half")]
__main__.main()
"""


def run_training(out: Path, checkpoint: Path, data: Path, processes: int, *options: str) -> None:
    """Run the command line with these options and the folder `out`."""
    program = out.with_suffix(".py")
    program.write_text(PROGRAM)
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        if processes > 1
        else []
    )
    constant = [
        "--data",
        str(data),
        "--checkpoint",
        str(checkpoint),
        "--out",
        str(out),
        "--threads",
        "1",
        "--device",
        "cpu",
    ]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, *launcher, str(program), "tune", *options, *constant]
    process = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=3000, check=False
    )
    assert process.returncode == 0, process.stderr[-12000:]


def read_losses(folder: Path, name: str) -> list[float]:
    with (folder / f"{name}-loss.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def assert_equal_runs(alone: Path, two: Path, name: str) -> None:
    """Compare loss curves and averaged weights up to rounding."""
    assert read_losses(two, name) == pytest.approx(read_losses(alone, name), rel=TOLERANCE), name
    assert len(set(read_losses(alone, name))) == 6
    one, other = (
        torch.load(folder / f"{name}.pt", weights_only=True)["averaged"] for folder in (alone, two)
    )
    assert one.keys() == other.keys()
    for key, value in one.items():
        # Adam divides by the gradient's size, so a gradient of rounding errors gives such a step.
        assert (value - other[key]).abs().float().mean() < 1e-3, key


@pytest.fixture(scope="module")
def alone(tiny_checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run of one process: decoder with the checkpoint's CLIP, CLIP, prior with that."""
    out = tmp_path_factory.mktemp("alone") / "run"
    run_training(out, tiny_checkpoint, data, 1, "decoder", "clip", "prior")
    return out


def test_two_processes_learn_the_same_as_one(
    alone: Path, tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    """DDP averages the gradients, and CLIP's contrast is over the images of both."""
    run_training(tmp_path / "run", tiny_checkpoint, data, 2, "decoder", "clip", "prior")
    for name in ("decoder", "clip", "prior"):
        assert_equal_runs(alone, tmp_path / "run", name)


def test_sharded_weights_learn_the_same_and_resume(
    alone: Path, tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    """FSDP continues an interrupted run, and its state file has whole weights."""
    run_training(tmp_path / "run", tiny_checkpoint, data, 2, "decoder", "--sharded", "--half")
    assert torch.load(tmp_path / "run" / "decoder.pt", weights_only=True)["step"] == 3
    run_training(tmp_path / "run", tiny_checkpoint, data, 2, "decoder", "clip", "--sharded")
    for name in ("decoder", "clip"):
        assert_equal_runs(alone, tmp_path / "run", name)
