"""Compare our pipeline with diffusers' UnCLIPPipeline: same weights, steps, guidance and machine.

    python -m benchmarks.models.compare_diffusers [--size karlo] [--batches 1 16 4]
        [--steps 25 25 7] [--repeats 3] [--dtype float16] [--compiled 1 16] [--seconds 240]

All peers run in one process and take turns, repeat by repeat, so that other work on the machine
affects all of them. A figure is the median of a peer's repeats. CPU seconds are steadier than wall
seconds on a machine that others use too. FLOPs are counted by torch for each peer, and compared
with the machine's matrix product at that moment.

On a GPU "ours" is what a worker runs, with CUDA graphs, and "ours, eager" the same without. The
memory of ours is measured before diffusers is on the GPU. A failed part is reported, the others
go on, and the JSON is written after each.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.models.diffusers_pair import (
    SIZES,
    build_diffusers_pipeline,
    relative_differences,
)
from benchmarks.models.gpu_memory import (
    OFFLOAD_BUDGET_BYTES,
    graph_differences,
    measure_gpu_memory,
)
from benchmarks.models.measure import (
    Measurement,
    count_flops,
    matmul_flops_per_s,
    measure_run,
    summarize,
)
from benchmarks.models.peers import Peer, diffusers_peer, free_memory, our_peers
from benchmarks.models.report import Report, plot_seconds_per_image
from models import UnCLIP

RESULTS = Path("runs/benchmarks")
STEPS = (25, 25, 7)  # of prior, decoder and upsampler: Karlo's "fast" preset


def compare(
    size: str = "mini",
    batches: Sequence[int] = (1, 4, 16),
    steps: Sequence[int] = STEPS,
    repeats: int = 3,
    dtype: torch.dtype | None = None,
    compiled: Sequence[int] = (),
    seconds: float = float("inf"),
    out: Path = RESULTS,
) -> dict[str, Any]:
    """Measure all peers at each batch size; return the figures, also as JSON and a plot in `out`.

    Args:
        size: "mini", or "karlo" for all 3.4 billion parameters, which need a GPU.
        batches: batch sizes.
        steps: denoising steps of prior, decoder and upsampler.
        repeats: runs of each peer at each batch size.
        dtype: default float16 on a GPU, float32 on a CPU.
        compiled: batch sizes at which compiled networks are measured, too; it takes minutes.
        seconds: no part begins after that many.
        out: folder of the JSON and the plot.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    is_gpu = device.type == "cuda"
    if size == "karlo" and not is_gpu:
        raise SystemExit("--size karlo needs a GPU, and torch finds none. Use --size mini.")
    dtype = dtype or (torch.float16 if is_gpu else torch.float32)
    figures: dict[str, Any] = {
        "size": size,
        "device": torch.cuda.get_device_name(device) if is_gpu else "cpu",
        "dtype": str(dtype),
        "steps": list(steps),
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "failed": {},
        "tflop": {},
        "batches": {},
    }
    name = f"pipeline-{size}-{device.type}"
    report = Report(figures, out / f"{name}.json", seconds)
    print(
        f"| {size}, {figures['device']}, {dtype}, {torch.get_num_threads()} threads, "
        f"steps {' '.join(map(str, steps))} |"
    )
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(report, Path(folder), device, dtype, steps, repeats)
        comparison.run(size, batches, compiled)
    with report.part("plot"):
        plot_seconds_per_image(figures, out / f"{name}.png")
    return figures


@dataclass(frozen=True)
class Comparison:
    """The parts of a comparison, on one device; `folder` receives the shared weights."""

    report: Report
    folder: Path
    device: torch.device
    dtype: torch.dtype
    steps: Sequence[int]
    repeats: int

    def run(self, size: str, batches: Sequence[int], compiled: Sequence[int]) -> None:
        """Run all parts in their order."""
        theirs = build_diffusers_pipeline(size, self.device, self.dtype)
        theirs.save_pretrained(self.folder)
        theirs.to("cpu")
        self._measure_memory()
        free_memory(self.device)
        ours = UnCLIP.load(self.folder, self.device, self.dtype)
        figures = self.report.figures
        if self.device.type == "cuda":
            with self.report.part("ours with graphs and without"):
                figures["own_differences"] = graph_differences(ours, self.steps)
                print(figures["own_differences"])
        theirs.to(self.device)
        with self.report.part("networks of both on the same numbers"):
            figures["differences"] = relative_differences(theirs, ours, self.device, self.dtype)
            print(figures["differences"])
        peers = our_peers(ours, self.steps) | {"diffusers": diffusers_peer(theirs, self.steps)}
        self._count_flops(peers)
        ours.prepack()
        for batch in batches:
            self._measure_batch(peers, batch)
        if compiled:
            self._measure_compiled(ours, theirs, compiled)

    def _measure_memory(self) -> None:
        if self.device.type != "cuda":
            return
        figures = self.report.figures
        parts = (("memory_gb", None), ("offloaded_gb", OFFLOAD_BUDGET_BYTES))
        for name, budget in parts:
            with self.report.part(f"memory of ours alone: {name}"):
                figures[name] = measure_gpu_memory(
                    self.folder, self.device, self.dtype, self.steps, budget
                )
                print(figures[name])

    def _count_flops(self, peers: dict[str, Peer]) -> None:
        # torch counts neither a graph's work nor that of prepacked convolutions.
        eager = {
            "ours": peers.get("ours, eager", peers["ours"]),
            "diffusers": peers["diffusers"],
        }
        for name, peer in eager.items():
            with self.report.part(f"FLOPs of {name}"):
                self.report.figures["tflop"][name] = count_flops(peer) / 1e12
        print(f"TFLOP per image: {self.report.figures['tflop']}")

    def _measure_compiled(self, ours: UnCLIP, theirs: Any, batches: Sequence[int]) -> None:
        networks = (theirs.prior, theirs.decoder, theirs.super_res_first, theirs.super_res_last)
        for network in networks:
            network.compile()
        # The compiler gains nothing from prepacked convolutions, so on a CPU ours is loaded anew.
        is_gpu = self.device.type == "cuda"
        unpacked = ours if is_gpu else UnCLIP.load(self.folder, self.device, self.dtype)
        peers = {"diffusers, compiled": diffusers_peer(theirs, self.steps)}
        peers |= our_peers(unpacked, self.steps, is_compiled=True)
        for batch in batches:
            self._measure_batch(peers, batch)

    def _measure_batch(self, peers: dict[str, Peer], batch: int) -> None:
        """Measure peers at one batch size, taking turns."""
        measurements: dict[str, list[Measurement]] = {}
        for name, peer in peers.items():
            with self.report.part(f"{name}, batch {batch}: warming up") as has_time:
                if has_time:
                    # A GPU captures a graph at the second pass of a shape.
                    for _ in range(2 if self.device.type == "cuda" else 1):
                        peer(batch)
                    measurements[name] = []
        rate = matmul_flops_per_s(self.device, self.dtype)
        for _ in range(self.repeats):
            for name in list(measurements):
                try:
                    measurements[name].append(measure_run(peers[name], batch, self.device))
                except Exception as error:
                    self.report.record_failure(f"{name}, batch {batch}", error)
                    del measurements[name]
        tflop = self.report.figures["tflop"]
        rows = {}
        for name, runs in measurements.items():
            flops_per_image = tflop.get(name.split(",")[0], float("nan")) * 1e12
            if runs:
                rows[name] = summarize(runs, batch, flops_per_image, rate, self.device)
        self.report.add_batch(batch, rows)


def main() -> None:
    """Run a comparison with the command line's numbers."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models.compare_diffusers",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--size", choices=SIZES, default="mini")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument(
        "--steps", type=int, nargs=3, default=STEPS, metavar=("PRIOR", "DECODER", "UPSAMPLER")
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        help="default: float16 on a GPU, float32 on a CPU",
    )
    parser.add_argument(
        "--compiled",
        type=int,
        nargs="+",
        default=[],
        help="batch sizes at which compiled networks are measured, too; it takes minutes",
    )
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="begin no part after that many seconds"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON and the plot")
    arguments = vars(parser.parse_args())
    dtype = arguments.pop("dtype")
    compare(dtype=getattr(torch, dtype) if dtype else None, **arguments)


if __name__ == "__main__":
    main()
