"""Run benchmarks: print tables, write figures as JSON and curves as PNG.

Without a name, run those that take about a minute.
"""

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

from benchmarks.chaos.campaign import run_chaos
from benchmarks.models.latency import measure_latency
from benchmarks.models.prefix_cache import measure_prefix_cache
from benchmarks.serving import (
    diffusers_load,
    load,
    overhead,
    reliability,
    scaling,
    startup,
)

Figures = dict[str, Any]


def _compare_diffusers(size: str) -> Figures:
    # diffusers is in the extra `bench`, so its import must not be needed by the other benchmarks.
    try:
        from benchmarks.models.compare_diffusers import compare
    except ImportError as error:
        raise SystemExit(f"{error}. Install it: pip install '.[bench]'") from error
    return compare(size)


BENCHMARKS: dict[str, Callable[[], Figures]] = {
    "latency": measure_latency,
    "overhead": overhead.measure_overhead,
    "cancellation": overhead.measure_cancellation,
    "listeners": overhead.measure_listeners,
    "startup": startup.measure_startup,
    "kills": reliability.kill_workers,
    "soak": reliability.soak,
    "chaos": run_chaos,
    "fuzz": reliability.fuzz_images,
    "load": load.compare_modes,
    "load-simulated": load.compare_simulated_modes,
    "load-diffusers": diffusers_load.compare_with_litserve,
    "scaling": scaling.measure_scaling,
    "prefix-cache": measure_prefix_cache,
    "pipeline": partial(_compare_diffusers, "mini"),
    "pipeline-karlo": partial(_compare_diffusers, "karlo"),
}
PLOTS: dict[str, Callable[[Figures, Path], None]] = {
    "load": load.plot_answered_shares,
    "load-simulated": load.plot_answered_shares,
    "load-diffusers": load.plot_answered_shares,
    "scaling": scaling.plot_scaling,
}
DEFAULT_BENCHMARKS = ("latency", "overhead")


def main() -> None:
    """Run the benchmarks that the command line names."""
    # End the started processes, too, when this one is terminated.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        choices=[*BENCHMARKS, []],
        default=[],
        metavar="NAME",
        help=", ".join(BENCHMARKS),
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/benchmarks"),
        help="folder of NAME.json and NAME.png (default: %(default)s)",
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"| {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__} | |")
    print("| --- | --- |", flush=True)
    for name in arguments.names or DEFAULT_BENCHMARKS:
        figures = BENCHMARKS[name]()
        (arguments.out / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")
        if name in PLOTS:
            PLOTS[name](figures, arguments.out / f"{name}.png")


if __name__ == "__main__":
    main()
