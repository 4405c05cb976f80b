"""`python -m training PRESET`: train a stack from nothing, or go on where a run was killed."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from training.presets import PRESETS
from training.run import NETWORKS, Run


def main() -> None:
    """Draw what is missing, then train the networks named, in order."""
    parser = argparse.ArgumentParser(prog="python -m training", description=main.__doc__)
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("networks", nargs="*", help=f"which to train; all, in this order, where none is named: {' '.join(NETWORKS)}")
    parser.add_argument("--out", type=Path, default=None, help="folder of the run (default: runs/PRESET)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all)")
    arguments = parser.parse_args()
    if unknown := set(arguments.networks) - set(NETWORKS):
        parser.error(f"no network is called {', '.join(sorted(unknown))}: there are {', '.join(NETWORKS)}")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    run = Run(PRESETS[arguments.preset], arguments.out or Path("runs") / arguments.preset, arguments.device, arguments.seed)
    for name in arguments.networks or NETWORKS:
        run.train(name)


if __name__ == "__main__":
    main()
