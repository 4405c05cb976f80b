"""`python -m benchmarks`: seconds to draw one picture of each size with the embedded checkpoint, warm, on this machine."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from models import UnCLIP

PROMPT = "a red cube on top of a blue cube"


def seconds(stack: UnCLIP, size: int, runs: int) -> list[float]:
    """Wall seconds of each of `runs` pictures, after one that is not counted."""
    taken = []
    for seed in range(runs + 1):
        started = time.perf_counter()
        stack.generate([PROMPT], seeds=[seed], size=size)
        taken.append(time.perf_counter() - started)
    return taken[1:]


def main() -> None:
    """Measure, print a table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    started = time.perf_counter()
    stack = UnCLIP.load(device=arguments.device)
    loaded = time.perf_counter() - started
    measured = {size: seconds(stack, size, arguments.runs) for size in stack.sizes}
    print(f"{arguments.device}, {torch.get_num_threads()} threads, torch {torch.__version__}; loaded in {loaded:.1f} s\n")
    print("| size | median s | min | max |\n| --- | --- | --- | --- |")
    for size, taken in measured.items():
        print(f"| {size} | {statistics.median(taken):.2f} | {min(taken):.2f} | {max(taken):.2f} |")
    if arguments.json:
        arguments.json.write_text(json.dumps({"load_s": loaded, "seconds": measured}, indent=2) + "\n")


if __name__ == "__main__":
    main()
