"""Latency of the pipeline alone: seconds of one image of each size, as a worker runs it."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from models import UnCLIP
from worker.engine.memory import tune_malloc

PROMPT = "a red cube on top of a blue cube"


def measure_latency(runs: int = 5) -> dict[str, Any]:
    """Measure one image at a time with the default checkpoint, after one run to warm up."""
    tune_malloc()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    started = time.perf_counter()
    pipeline = UnCLIP.load(device=device)
    pipeline.prepack()
    load_s = time.perf_counter() - started
    print(f"| {device}, {torch.get_num_threads()} threads | loaded in {load_s:.1f} s |")
    seconds = {size: time_images(pipeline, size, runs) for size in pipeline.sizes}
    for size, times in seconds.items():
        spread = f"{min(times):.2f} to {max(times):.2f}"
        print(f"| {size}² | median {statistics.median(times):.2f} s ({spread}) |", flush=True)
    return {"load_s": load_s, "seconds": seconds}


def time_images(pipeline: UnCLIP, size: int, runs: int) -> list[float]:
    """Return the wall seconds of `runs` images, after one that is not counted."""
    seconds = []
    for seed in range(runs + 1):
        started = time.perf_counter()
        pipeline.generate([PROMPT], seeds=[seed], size=size)
        seconds.append(time.perf_counter() - started)
    return seconds[1:]
