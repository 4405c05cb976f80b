"""`python -m benchmarks [NAME …]`: measure, print a table, write the figures as JSON, curves also as a plot. Without a name, what takes a
minute."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.models.latency import images
from benchmarks.serving import load, reliability, scaling


def _pipeline(size: str) -> dict[str, Any]:
    try:
        from benchmarks.models.compare_diffusers import (
            compare,
        )  # only now: it needs what no other measure does
    except ImportError as error:
        raise SystemExit(
            f"{error}: pip install '.[bench]' has what benchmarks.models.compare_diffusers needs"
        ) from error
    return compare(size)


STACKS = {"pipeline": partial(_pipeline, "mini"), "pipeline-karlo": partial(_pipeline, "karlo")}
ALL: dict[str, Callable[[], dict[str, Any]]] = {
    "images": images,
    **reliability.MEASURES,
    **load.MEASURES,
    **scaling.MEASURES,
    **STACKS,
}
PLOTS = load.PLOTS | scaling.PLOTS
BRIEF = ("images", "overhead")


def main() -> None:
    """Run those asked for."""
    signal.signal(
        signal.SIGTERM, lambda number, frame: sys.exit(128 + number)
    )  # and what was started ends too
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", choices=[*ALL, []], default=[], metavar="NAME", help=", ".join(ALL)
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/benchmarks"),
        help="folder of NAME.json and NAME.png (%(default)s)",
    )
    arguments = parser.parse_args()
    print(
        f"| {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__} | |\n| --- | --- |"
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or BRIEF:
        found = ALL[name]()
        (arguments.out / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")
        if name in PLOTS:
            PLOTS[name](found, arguments.out / f"{name}.png")


if __name__ == "__main__":
    main()
