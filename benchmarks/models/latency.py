"""Seconds to draw one image of each size with the embedded checkpoint, warm, on this machine, as a worker has it."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from models import UnCLIP
from worker.engine.memory import keep_freed_memory

PROMPT = "a red cube on top of a blue cube"


def seconds(pipeline: UnCLIP, size: int, runs: int) -> list[float]:
    """Wall seconds of each of `runs` images, after one that is not counted."""
    taken = []
    for seed in range(runs + 1):
        started = time.perf_counter()
        pipeline.generate([PROMPT], seeds=[seed], size=size)
        taken.append(time.perf_counter() - started)
    return taken[1:]


def images(runs: int = 5) -> dict[str, Any]:
    """One image alone, of each size."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    keep_freed_memory()
    started = time.perf_counter()
    pipeline = UnCLIP.load(device=device)
    pipeline.pack()
    loaded = time.perf_counter() - started
    measured = {size: seconds(pipeline, size, runs) for size in pipeline.sizes}
    print(f"| {device}, {torch.get_num_threads()} threads | loaded in {loaded:.1f} s |")
    for size, taken in measured.items():
        print(
            f"| {size}² | median {statistics.median(taken):.2f} s ({min(taken):.2f} to {max(taken):.2f}) |"
        )
    return {"load_s": loaded, "seconds": measured}
