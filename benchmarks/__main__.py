"""`python -m benchmarks [NAME …]`: measure, print a table, write the figures as JSON. Without a name, what takes a minute."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import load, reliability
from benchmarks.pictures import pictures


def _stack(size: str) -> dict[str, Any]:
    try:
        from benchmarks.stack import stack  # only now: it needs what no other measure does
    except ImportError as error:
        raise SystemExit(f"{error}: pip install '.[bench]' has what benchmarks.stack needs") from error
    return stack(size)


STACKS = {"stack": partial(_stack, "mini"), "stack-karlo": partial(_stack, "karlo")}
ALL: dict[str, Callable[[], dict[str, Any]]] = {"pictures": pictures, **reliability.MEASURES, **load.MEASURES, **STACKS}
BRIEF = ("pictures", "overhead")


def main() -> None:
    """Run those asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*ALL, []], default=[], metavar="NAME", help=", ".join(ALL))
    parser.add_argument("--json", type=Path, default=None, help="a file for the figures")
    arguments = parser.parse_args()
    print(f"| {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__} | |\n| --- | --- |")
    figures = {name: ALL[name]() for name in arguments.names or BRIEF}
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
