"""`python -m training PRESET`: train a pipeline, from scratch or from a checkpoint.

An interrupted run continues where it stopped. For several devices use `torchrun --nproc-per-node N
-m training PRESET`; for several machines add torchrun's own flags and share the run's folder.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from models import CheckpointError
from training.errors import TrainingError
from training.presets import PRESETS, Preset
from training.run import CLASSIFIER, NETWORKS, Run
from training.trainer.distributed import join_process_group

_OVERRIDES = ("steps", "batch", "lr")
LORA_LR_FACTOR = 10.0  # of the preset's learning rate


def main() -> None:
    """Render missing scenes, then train the networks in order."""
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        train(arguments)
    except (CheckpointError, TrainingError) as error:
        sys.exit(str(error))


def parse_arguments() -> argparse.Namespace:
    """Parse and check the command line. Exits with a message if it is invalid."""
    parser = argparse.ArgumentParser(prog="python -m training", description=main.__doc__)
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument(
        "networks",
        nargs="*",
        help=f"networks to train (default: all, in this order: {' '.join(NETWORKS)})",
    )
    parser.add_argument(
        "--data",
        help="folder of images with captions (cat.jpg, cat.txt), or webdataset shards",
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="checkpoint folder to continue, ours or Karlo's"
    )
    parser.add_argument(
        "--lora",
        type=int,
        default=0,
        metavar="RANK",
        help="train low-rank changes to the checkpoint only (default: all weights)",
    )
    parser.add_argument("--steps", type=int, help="optimizer steps (default: the preset's)")
    parser.add_argument(
        "--batch", type=int, help="images per step, over all processes (default: the preset's)"
    )
    parser.add_argument(
        "--lr",
        type=float,
        help=f"learning rate (default: the preset's, with --lora {LORA_LR_FACTOR:g} times that)",
    )
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/PRESET)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all)")
    arguments = parser.parse_args()
    if unknown := set(arguments.networks) - set(NETWORKS):
        parser.error(
            f"unknown network {', '.join(sorted(unknown))}: choose from {', '.join(NETWORKS)}"
        )
    for name in _OVERRIDES:
        value = getattr(arguments, name)
        if value is not None and value <= 0:
            parser.error(f"--{name} must be above 0, got {value}")
    if arguments.lora < 0:
        parser.error(f"--lora must be 0 or a rank such as 8, got {arguments.lora}")
    return arguments


def train(arguments: argparse.Namespace) -> None:
    """Train what the command line names, with this process' share of each batch."""
    preset = override_plans(PRESETS[arguments.preset], arguments)
    # The scene classifier learns from synthetic scenes only.
    trainable = {name for name in preset.plans if arguments.data is None or name != CLASSIFIER}
    names = arguments.networks or [name for name in NETWORKS if name in trainable]
    with join_process_group(arguments.device) as (group, device):
        run = Run(
            preset,
            arguments.out or Path("runs") / arguments.preset,
            device,
            arguments.seed,
            data=arguments.data,
            start=arguments.checkpoint,
            lora=arguments.lora,
            group=group,
        )
        for name in names:
            if name not in trainable:
                raise TrainingError(
                    f"cannot train {name}: the preset has no plan for it, or it learns from "
                    "synthetic scenes and --data is set"
                )
            run.train(name)


def override_plans(preset: Preset, arguments: argparse.Namespace) -> Preset:
    """Return the preset with the command line's steps, batch and learning rate."""
    values = {name: getattr(arguments, name) for name in _OVERRIDES}
    overrides = {name: value for name, value in values.items() if value is not None}
    factor = LORA_LR_FACTOR if arguments.lora else 1.0
    plans = {
        name: replace(plan, **{"lr": plan.lr * factor} | overrides)
        for name, plan in preset.plans.items()
    }
    return replace(preset, plans=plans)


if __name__ == "__main__":
    main()
