"""Time, memory and FLOPs of a peer, and the speed of the machine's matrix product."""

from __future__ import annotations

import ctypes
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.models.peers import Peer


@dataclass(frozen=True)
class Measurement:
    """One run of a peer.

    Attributes:
        seconds: wall seconds.
        cpu_seconds: CPU seconds of this process. They are steadier on a machine with other work.
        memory_bytes: peak memory beyond what was in use before the run.
    """

    seconds: float
    cpu_seconds: float
    memory_bytes: int


def measure_run(peer: Peer, batch: int, device: torch.device) -> Measurement:
    """Run a peer once."""
    before = _start_peak_memory(device)
    synchronize(device)
    started = time.perf_counter()
    cpu_started = time.process_time()
    peer(batch)
    synchronize(device)
    seconds = time.perf_counter() - started
    cpu_seconds = time.process_time() - cpu_started
    return Measurement(seconds, cpu_seconds, _peak_memory_bytes(device) - before)


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _start_peak_memory(device: torch.device) -> int:
    """Reset the peak and return the bytes in use."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    return _own_bytes("VmRSS")


def _peak_memory_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _own_bytes("VmHWM")


def _own_bytes(field: str) -> int:
    """Return a field of this process's status: "VmRSS" now, "VmHWM" at its peak (Linux)."""
    match = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(match[1]) * 1024 if match else 0


def count_flops(peer: Peer) -> int:
    """Return the FLOPs of one image, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        peer(1)
    return int(counter.get_total_flops())


def matmul_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """Return FLOP/s of a square matrix product, the best of five; on a CPU those of one core."""
    side = 8192 if device.type == "cuda" else 1536
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    clock = _clock_of(device)
    seconds = []
    for _ in range(6):
        synchronize(device)
        started = clock()
        matrix @ matrix
        synchronize(device)
        seconds.append(clock() - started)
    return 2 * side**3 / min(seconds[1:])


def _clock_of(device: torch.device) -> Callable[[], float]:
    """Return wall seconds for a GPU, and CPU seconds for a CPU that others may use too."""
    return time.perf_counter if device.type == "cuda" else time.process_time


def summarize(
    measurements: Sequence[Measurement],
    batch: int,
    flops_per_image: float,
    matmul_rate: float,
    device: torch.device,
) -> dict[str, float]:
    """Return medians, and what follows from them.

    `of_matmul_rate` is the peer's FLOP/s as a share of those of the matrix product.
    """
    seconds = statistics.median(one.seconds for one in measurements)
    cpu_seconds = statistics.median(one.cpu_seconds for one in measurements)
    busy_s = seconds if device.type == "cuda" else cpu_seconds
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "images_per_s": batch / seconds,
        "memory_mb": max(one.memory_bytes for one in measurements) / 1e6,
        "of_matmul_rate": flops_per_image * batch / busy_s / matmul_rate,
        "matmul_tflops": matmul_rate / 1e12,
    }
