"""`python -m models pull karlo-v1-alpha`: download a published checkpoint and convert it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from models.checkpoints.download import PullError, pull
from models.checkpoints.tensor_files import CheckpointError


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m models")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("pull", help="download a checkpoint from the hub and convert it")
    command.add_argument("name", choices=["karlo-v1-alpha"])
    command.add_argument(
        "--out", type=Path, help="checkpoint folder to write (default: NAME in this folder)"
    )
    command.add_argument(
        "--revision",
        default="main",
        help="commit of kakaobrain/karlo-v1-alpha (default: the newest)",
    )
    command.add_argument(
        "--image-revision",
        default="main",
        help="commit of its repository with the image encoder (default: the newest)",
    )
    command.add_argument(
        "--half", action="store_true", help="write fp16: half the disk, images differ by rounding"
    )
    command.add_argument("--keep", action="store_true", help="keep the download, in OUT.download")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a failure exits with a line that has the reason."""
    options = _parse(arguments)
    out = options.out or Path(options.name)
    try:
        pull(out, options.revision, options.image_revision, half=options.half, keep=options.keep)
    except (PullError, CheckpointError) as error:
        sys.exit(f"Cannot pull {options.name}: {error}")
    except KeyboardInterrupt:
        sys.exit("Stopped. The download is kept: run the same command again to resume.")
    print(f"{out} is ready: UNCLIP_CHECKPOINT={out.absolute()}")


if __name__ == "__main__":
    main()
