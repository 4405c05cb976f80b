"""`python -m training PRESET`: train a pipeline from nothing or from a checkpoint, or go on where a run was killed.

By `torchrun --nproc-per-node N -m training PRESET` on several devices, with torchrun's own flags on several machines that share the
run's folder.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from models.checkpoints.checkpoint import CheckpointError
from training.errors import TrainingError
from training.presets import PRESETS, Preset
from training.run import NETWORKS, Run
from training.trainer.distributed import joined


def main() -> None:
    """Draw what is missing, then train the networks named, in order."""
    parser = argparse.ArgumentParser(prog="python -m training", description=main.__doc__)
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument(
        "networks",
        nargs="*",
        help=f"which to train; all, in this order, where none is named: {' '.join(NETWORKS)}",
    )
    parser.add_argument(
        "--data",
        help="learn from a folder of images with captions (cat.jpg, cat.txt), or from webdataset shards",
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="go on with this checkpoint folder, ours or Karlo's"
    )
    parser.add_argument(
        "--lora",
        type=int,
        default=0,
        metavar="RANK",
        help="of the checkpoint's weights learn changes of this rank only",
    )
    parser.add_argument("--steps", type=int, help="instead of the preset's")
    parser.add_argument(
        "--batch", type=int, help="rows a step, of all processes together, instead of the preset's"
    )
    parser.add_argument("--lr", type=float, help="learning rate instead of the preset's")
    parser.add_argument(
        "--out", type=Path, default=None, help="folder of the run (default: runs/PRESET)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all)")
    arguments = parser.parse_args()
    if unknown := set(arguments.networks) - set(NETWORKS):
        parser.error(
            f"no network is called {', '.join(sorted(unknown))}: there are {', '.join(NETWORKS)}"
        )
    for name in ("steps", "batch", "lr"):
        if (value := getattr(arguments, name)) is not None and value <= 0:
            parser.error(f"--{name} is {value}: it is above 0")
    if arguments.lora < 0:
        parser.error(f"--lora is {arguments.lora}: a rank is above 0, 8 for example")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        train(arguments)
    except (CheckpointError, TrainingError) as error:
        sys.exit(str(error))


def train(arguments: argparse.Namespace) -> None:
    """What the command line asks for, in this process' share."""
    preset = planned(PRESETS[arguments.preset], arguments)
    with joined(arguments.device) as (team, device):
        run = Run(
            preset,
            arguments.out or Path("runs") / arguments.preset,
            device,
            arguments.seed,
            data=arguments.data,
            start=arguments.checkpoint,
            lora=arguments.lora,
            team=team,
        )
        drawn = arguments.data is None
        for name in arguments.networks or [
            n for n in NETWORKS if n in preset.plans and (drawn or n != "reader")
        ]:
            if name not in preset.plans or (name == "reader" and not drawn):
                raise TrainingError(
                    f"{name} is not among what is trained here: it learns from drawings, or the preset has no plan for it"
                )
            run.train(name)


def planned(preset: Preset, arguments: argparse.Namespace) -> Preset:
    """The preset with what the command line says instead of its plans'."""
    said = {
        name: value
        for name in ("steps", "batch", "lr")
        if (value := getattr(arguments, name)) is not None
    }
    rate = 10.0 if arguments.lora else 1.0  # a --lr is taken as it is said
    return replace(
        preset,
        plans={
            name: replace(plan, **{"lr": plan.lr * rate} | said)
            for name, plan in preset.plans.items()
        },
    )


if __name__ == "__main__":
    main()
