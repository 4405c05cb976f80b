"""Two processes learn what one does with the same global batch: started by torchrun on the CPU (gloo)."""

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
# Losses of one and two processes differ by the order in which halves are summed.
CLOSE = 1e-4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images with captions."""
    folder = tmp_path_factory.mktemp("images")
    for k in range(12):
        Image.linear_gradient("L").rotate(30 * k).convert("RGB").save(folder / f"{k}.png")
        (folder / f"{k}.txt").write_text(f"a gradient turned by {30 * k} degrees")
    return folder


# The command line's own `main`, with presets as small as the tiny checkpoint.
PROGRAM = """
import sys
from dataclasses import replace
from functools import partial
from training import __main__, presets, run
tune = presets.PRESETS["tune"]
plans = {name: replace(plan, steps=6, batch=4, lr=1e-2, warmup=2, sharded="--sharded" in sys.argv) for name, plan in tune.plans.items()}
presets.PRESETS["tune"] = replace(tune, plans=plans)
if "--half" in sys.argv:
    run.train = partial(run.train, stop_after=3)
sys.argv = [argument for argument in sys.argv if argument not in ("--sharded", "--half")]
__main__.main()
"""


def trained(out: Path, checkpoint: Path, data: Path, processes: int, *given: str) -> None:
    """A run in the folder `out`, with `given` on its command line."""
    program = out.with_suffix(".py")
    program.write_text(PROGRAM)
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        if processes > 1
        else []
    )
    always = [
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
    command = [sys.executable, *launcher, str(program), "tune", *given, *always]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=3000, check=False
    )
    assert done.returncode == 0, done.stderr[-12000:]


def losses(folder: Path, name: str) -> list[float]:
    with (folder / f"{name}-loss.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def compare(alone: Path, two: Path, name: str) -> None:
    """The loss curve to rounding, and the averaged weights, which the same file holds however they were trained."""
    assert losses(two, name) == pytest.approx(losses(alone, name), rel=CLOSE), name
    assert len(set(losses(alone, name))) == 6
    one, other = (
        torch.load(folder / f"{name}.pt", weights_only=True)["averaged"] for folder in (alone, two)
    )
    assert one.keys() == other.keys()
    for key, value in one.items():
        # Adam divides by the gradient's size: where that is rounding alone, so is the step.
        assert (value - other[key]).abs().float().mean() < 1e-3, key


@pytest.fixture(scope="module")
def alone(tiny_checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process learns: the decoder with the checkpoint's CLIP, CLIP, and the prior with that."""
    out = tmp_path_factory.mktemp("alone") / "run"
    trained(out, tiny_checkpoint, data, 1, "decoder", "clip", "prior")
    return out


def test_two_processes_learn_what_one_does(
    alone: Path, tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    """By DDP; CLIP's contrast is over the images of both."""
    trained(tmp_path / "run", tiny_checkpoint, data, 2, "decoder", "clip", "prior")
    for name in ("decoder", "clip", "prior"):
        compare(alone, tmp_path / "run", name)


def test_sharded_weights_learn_the_same_and_go_on_where_they_stopped(
    alone: Path, tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    """By FSDP, stopped in the middle; what it leaves is whole again."""
    trained(tmp_path / "run", tiny_checkpoint, data, 2, "decoder", "--sharded", "--half")
    assert torch.load(tmp_path / "run" / "decoder.pt", weights_only=True)["step"] == 3
    trained(tmp_path / "run", tiny_checkpoint, data, 2, "decoder", "clip", "--sharded")
    for name in ("decoder", "clip"):
        compare(alone, tmp_path / "run", name)
