"""`python -m models pull karlo-v1-alpha`: fetch a published checkpoint and make a folder of ours of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from models.checkpoints.checkpoint import CheckpointError
from models.checkpoints.download import PullError, pull


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and do as it says; what cannot be done ends the process with a line that says why."""
    parser = argparse.ArgumentParser(prog="python -m models")
    commands = parser.add_subparsers(dest="command", required=True)
    fetching = commands.add_parser("pull", help="fetch a checkpoint from the hub and convert it")
    fetching.add_argument("name", choices=["karlo-v1-alpha"])
    fetching.add_argument(
        "--out",
        type=Path,
        help="the checkpoint folder to write; NAME in this folder where not given",
    )
    fetching.add_argument(
        "--revision",
        default="main",
        help="commit of kakaobrain/karlo-v1-alpha; the newest where not given",
    )
    fetching.add_argument(
        "--image-revision", default="main", help="commit of its sister, which has the image encoder"
    )
    fetching.add_argument(
        "--half", action="store_true", help="write fp16: half the disk, images differ by rounding"
    )
    fetching.add_argument(
        "--keep", action="store_true", help="keep what was fetched, in OUT.download"
    )
    given = parser.parse_args(arguments)
    out = given.out or Path(given.name)
    try:
        pull(out, given.revision, given.image_revision, half=given.half, keep=given.keep)
    except (PullError, CheckpointError) as error:
        sys.exit(f"{given.name} could not be pulled: {error}")
    except KeyboardInterrupt:
        sys.exit("Stopped. What has been fetched is kept: the same command goes on from there.")
    print(f"{out} is ready: UNCLIP_CHECKPOINT={out.absolute()}")


if __name__ == "__main__":
    main()
