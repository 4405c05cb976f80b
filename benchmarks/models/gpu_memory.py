"""GPU memory of our pipeline alone, and the effect of CUDA graphs on its images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.models.measure import synchronize
from benchmarks.models.peers import free_memory, our_peer, our_peers
from models import UnCLIP

# Weights on the GPU at a time, with offloading. Karlo's largest network, its upsampler, has
# 2640 MiB.
OFFLOAD_BUDGET_BYTES = 3000 * 2**20


def measure_gpu_memory(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    steps: Sequence[int],
    offload_budget_bytes: int | None,
) -> dict[str, float]:
    """Return the GB that our pipeline needs, from loading it to generating the third image.

    Nothing else may be on the GPU. "peak_reserved" includes what torch's allocator holds in
    reserve.
    """
    free_memory(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    pipeline = UnCLIP.load(folder, device, dtype, offload_budget_bytes=offload_budget_bytes)
    weights = torch.cuda.memory_allocated(device) - before
    pipeline.enable_cuda_graphs()
    peer = our_peer(pipeline, steps)
    for _ in range(2):
        peer(1)
    synchronize(device)
    started = time.perf_counter()
    peer(1)
    synchronize(device)
    seconds = time.perf_counter() - started
    peak_bytes = {
        "before": before,
        "loaded": weights,
        "peak": torch.cuda.max_memory_allocated(device),
        "peak_reserved": torch.cuda.max_memory_reserved(device),
    }
    return {name: value / 1e9 for name, value in peak_bytes.items()} | {"seconds": seconds}


def graph_differences(pipeline: UnCLIP, steps: Sequence[int]) -> dict[str, float]:
    """Compare images of one seed with and without CUDA graphs, and each with its repetition."""
    peers = our_peers(pipeline, steps)
    eager = [peers["ours, eager"](1) for _ in range(2)]
    peers["ours"](1)
    replayed = [peers["ours"](1) for _ in range(2)]
    pairs = {
        "graphs": (eager[0], replayed[0]),
        "graphs_again": (replayed[0], replayed[1]),
        "eager_again": (eager[0], eager[1]),
    }
    differences: dict[str, float] = {}
    for name, (one, other) in pairs.items():
        assert isinstance(one, Tensor)
        assert isinstance(other, Tensor)
        difference = (one - other).abs()
        differences[f"{name}_max"] = float(difference.max())
        differences[f"{name}_mean"] = float(difference.mean())
    return differences
