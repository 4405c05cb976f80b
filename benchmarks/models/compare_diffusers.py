"""Our pipeline beside diffusers' UnCLIPPipeline: the same random weights, steps, guidance and machine.

    python -m benchmarks.models.compare_diffusers [--size karlo] [--batches 1 16 4] [--steps 25 25 7] [--repeats 3] [--dtype float16]
                               [--compiled 1 16] [--seconds 240]

All peers are in one process, and take turns repeat by repeat, so that what else the machine does meets all of them; a figure is the
median of a peer's repeats. Beside seconds it tells the process's own CPU seconds: on a machine that others use too, those are the
steadier ones. FLOPs are counted by torch for each peer, and compared with what this machine's matrix product does at that moment.

On a GPU "ours" is what a worker does, with CUDA graphs, and "ours, launched" the same without; how much memory ours takes is measured
before diffusers is there, and what both say of the same numbers is compared. What fails is told, and the rest goes on; the JSON is written
after each.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import re
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.models.diffusers_pair import SIZES, differences, pipeline
from models import UnCLIP
from models.acceleration.cuda_graphs import Graphs

RESULTS = Path("runs/benchmarks")
PROMPT = "a red cube on top of a blue cube, on snow"
GUIDANCE = {"prior_guidance_scale": 4.0, "decoder_guidance_scale": 8.0}
STEPS = (25, 25, 7)  # of prior, decoder and upsampler: Karlo's "fast" preset
OURS = ("prior_num_inference_steps", "decoder_num_inference_steps", "upsampler_num_inference_steps")
THEIRS = (
    "prior_num_inference_steps",
    "decoder_num_inference_steps",
    "super_res_num_inference_steps",
)
OFFLOADED = (
    3000 * 2**20
)  # bytes of weights on the GPU at a time: Karlo's largest network, its upsampler, has 2640 MiB


@dataclass
class Taken:
    """What one run took. `memory`: bytes held at most beyond what was held before it."""

    seconds: float
    cpu_seconds: float
    memory: int


Draw = Callable[[int], object]  # so many images


def our_draw(pipeline: UnCLIP, steps: Sequence[int]) -> Callable[[int], Tensor]:
    """Images of 256² by our pipeline."""
    asked: dict[str, Any] = dict(zip(OURS, steps, strict=True)) | GUIDANCE
    return lambda batch: pipeline.generate([PROMPT] * batch, size=256, sampler="ddpm", **asked)


def their_draw(pipeline: Any, steps: Sequence[int]) -> Draw:
    """The same by diffusers."""
    asked: dict[str, Any] = dict(zip(THEIRS, steps, strict=True)) | GUIDANCE
    return lambda batch: pipeline([PROMPT] * batch, output_type="np", **asked)


def our_peers(pipeline: UnCLIP, steps: Sequence[int], compiled: bool = False) -> dict[str, Draw]:
    """Ours as a worker has it, and on a GPU also without graphs; or with compiled networks. Each keeps its graphs while others draw."""
    pipeline.set_graphs(None)
    if compiled and pipeline.device.type == "cpu":
        pipeline.set_graphs(Graphs(run_again, compiled=True))
    else:
        pipeline.enable_cuda_graphs(compiled)
    graphs = pipeline.graphs
    draw = our_draw(pipeline, steps)

    def played(batch: int) -> Tensor:
        pipeline.set_graphs(graphs)
        return draw(batch)

    def launched(batch: int) -> Tensor:
        pipeline.set_graphs(None)
        return draw(batch)

    if compiled:
        return {"ours, compiled": played}
    return {"ours": launched} if graphs is None else {"ours": played, "ours, launched": launched}


def run_again(network: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """What stands for a recording on a CPU, where there are none: the compiled network, once more."""
    said = network()
    return lambda: said.copy_(network()), said  # type: ignore[return-value]


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a square matrix product, the best of five; on a CPU those of one core."""
    side = 8192 if device.type == "cuda" else 1536
    a = torch.randn(side, side, device=device, dtype=dtype)
    taken = []
    clock = clock_of(device)
    for _ in range(6):
        wait(device)
        started = clock()
        a @ a
        wait(device)
        taken.append(clock() - started)
    return 2 * side**3 / min(taken[1:])


def clock_of(device: torch.device) -> Callable[[], float]:
    """What FLOP/s are measured by: seconds on a GPU, seconds of one core on a CPU, which others may use besides."""
    return time.perf_counter if device.type == "cuda" else time.process_time


def held(what: str) -> int:
    """Bytes that this process holds ("VmRSS") or has held at most ("VmHWM"), by Linux."""
    found = re.search(rf"{what}:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def run(draw: Draw, batch: int, device: torch.device) -> Taken:
    """Draw once."""
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # begin to count VmHWM anew
        before = held("VmRSS")
    wait(device)
    started = time.perf_counter()
    cpu = time.process_time()
    draw(batch)
    wait(device)
    seconds = time.perf_counter() - started
    cpu = time.process_time() - cpu
    most = torch.cuda.max_memory_allocated(device) if gpu else held("VmHWM")
    return Taken(seconds, cpu, most - before)


def flops(draw: Draw) -> int:
    """Of one image."""
    with FlopCounterMode(display=False) as counter:
        draw(1)
    return int(counter.get_total_flops())


def figures_of(
    taken: Sequence[Taken], batch: int, work: float, rate: float, device: torch.device
) -> dict[str, float]:
    """Medians, and what follows from them; `work`: FLOPs of one image."""
    seconds, cpu = (
        statistics.median(getattr(one, name) for one in taken)
        for name in ("seconds", "cpu_seconds")
    )
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "images_per_s": batch / seconds,
        "memory_mb": max(one.memory for one in taken) / 1e6,
        "of_matmul_rate": work * batch / (seconds if device.type == "cuda" else cpu) / rate,
    }


class Report:
    """The figures so far, in a file after each of them; and the seconds that are left for more."""

    def __init__(self, figures: dict[str, Any], path: Path, seconds: float) -> None:
        self.figures = figures
        self.path = path
        self._until = time.perf_counter() + seconds
        self._began = time.perf_counter()

    def keep(self) -> None:
        """Write the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.figures, indent=2) + "\n")

    @contextmanager
    def part(self, name: str) -> Iterator[bool]:
        """A part of the measurement: whether there is time for it. What it raises is told and written."""
        there_is = time.perf_counter() < self._until
        print(
            f"[{time.perf_counter() - self._began:.0f} s] {name}"
            + ("" if there_is else ": no time left"),
            flush=True,
        )
        try:
            yield there_is
        except Exception as error:
            traceback.print_exc()
            self.figures["failed"][name] = f"{type(error).__name__}: {error}"[:500]
        self.keep()


def memory_of(
    folder: Path, device: torch.device, dtype: torch.dtype, steps: Sequence[int], budget: int | None
) -> dict[str, float]:
    """GB that the GPU holds at most with nothing on it but our pipeline, from loading it to drawing one image for the third time; `budget`:
    of weights at a time. Reserved is what torch's allocator has taken, its reserves included."""
    emptied(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    pipeline = UnCLIP.load(folder, device, dtype, offload_budget_bytes=budget)
    weights = torch.cuda.memory_allocated(device) - before
    pipeline.enable_cuda_graphs()
    draw = our_draw(pipeline, steps)
    for _ in range(2):
        draw(1)
    wait(device)
    started = time.perf_counter()
    draw(1)
    wait(device)
    seconds = time.perf_counter() - started
    allocated = torch.cuda.max_memory_allocated(device)
    reserved = torch.cuda.max_memory_reserved(device)
    found = {"before": before, "loaded": weights, "peak": allocated, "peak_reserved": reserved}
    return {name: value / 1e9 for name, value in found.items()} | {"seconds": seconds}


def emptied(device: torch.device) -> None:
    """What nobody holds any more is given back."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def own_differences(pipeline: UnCLIP, steps: Sequence[int]) -> dict[str, float]:
    """How far images lie apart, of one seed: with graphs and without, and for comparison without and again without."""
    peers = our_peers(pipeline, steps)
    first, again = (peers["ours, launched"](1) for _ in range(2))
    peers["ours"](1)
    played, repeated = (peers["ours"](1) for _ in range(2))
    pairs = {
        "graphs": (first, played),
        "graphs_again": (played, repeated),
        "launched_again": (first, again),
    }
    found: dict[str, float] = {}
    for name, (one, other) in pairs.items():
        apart = (one - other).abs()  # type: ignore[operator]
        found |= {f"{name}_max": float(apart.max()), f"{name}_mean": float(apart.mean())}
    return found


def measure(
    report: Report,
    peers: dict[str, Draw],
    batch: int,
    repeats: int,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Peers at one batch, taking turns."""
    taken: dict[str, list[Taken]] = {}
    work = report.figures["tflop"]
    failed = report.figures["failed"]
    for name, draw in peers.items():
        with report.part(f"{name}, batch {batch}: warming up") as there_is:
            if there_is:
                for _ in range(
                    2 if device.type == "cuda" else 1
                ):  # compiles, and records what comes twice
                    draw(batch)
                taken[name] = []
    rate = matmul_rate(device, dtype)
    for _ in range(repeats):
        for name in list(taken):
            try:
                taken[name].append(run(peers[name], batch, device))
            except Exception as error:
                traceback.print_exc()
                failed[f"{name}, batch {batch}"] = f"{type(error).__name__}: {error}"[:500]
                del taken[name]
    found = {
        name: figures_of(of, batch, work.get(name.split(",")[0], float("nan")) * 1e12, rate, device)
        | {"matmul_tflops": rate / 1e12}
        for name, of in taken.items()
        if of
    }
    report.figures["batches"].setdefault(str(batch), {"peers": {}})["peers"] |= found
    report.keep()
    tell(batch, found, report.figures["batches"][str(batch)]["peers"].get("diffusers"))


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
    """Measure all peers at each batch, and compiled ones at the batches of `compiled`; the figures, also as JSON and as a plot in `out`.
    After `seconds` no part is begun."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if size == "karlo" and device.type == "cpu":
        raise SystemExit(
            "size karlo is 3.4 billion parameters and needs a GPU, and torch finds none: --size mini is for a CPU"
        )
    dtype = dtype or (torch.float16 if device.type == "cuda" else torch.float32)
    gpu = device.type == "cuda"
    figures: dict[str, Any] = {
        "size": size,
        "device": torch.cuda.get_device_name(device) if gpu else "cpu",
        "dtype": str(dtype),
    }
    figures |= {
        "steps": list(steps),
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    figures |= {"failed": {}, "tflop": {}, "batches": {}}
    report = Report(figures, out / f"pipeline-{size}-{device.type}.json", seconds)
    print(
        f"| {size}, {figures['device']}, {dtype}, {torch.get_num_threads()} threads, steps {' '.join(map(str, steps))} |"
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        theirs = pipeline(size, device, dtype)
        theirs.save_pretrained(folder)
        theirs.to("cpu")
        if gpu:
            with report.part("memory of ours alone"):
                figures["memory_gb"] = memory_of(folder, device, dtype, steps, None)
                print(figures["memory_gb"])
            with report.part("memory of ours, networks taking turns"):
                figures["offloaded_gb"] = memory_of(folder, device, dtype, steps, OFFLOADED)
                print(figures["offloaded_gb"])
        emptied(device)
        ours = UnCLIP.load(folder, device, dtype)
        if gpu:
            with report.part("ours with graphs and without"):
                figures["own_differences"] = own_differences(ours, steps)
                print(figures["own_differences"])
        theirs.to(device)
        with report.part("networks of both on the same numbers"):
            figures["differences"] = differences(theirs, ours, device, dtype)
            print(figures["differences"])
        peers = our_peers(ours, steps) | {"diffusers": their_draw(theirs, steps)}
        plain = peers.get(
            "ours, launched", peers["ours"]
        )  # torch sees nothing of what a graph does, nor of packed convolutions
        for name, draw in (("ours", plain), ("diffusers", peers["diffusers"])):
            with report.part(f"FLOPs of {name}"):
                figures["tflop"][name] = flops(draw) / 1e12
        print(f"TFLOP an image: {figures['tflop']}")
        ours.prepack()
        for batch in batches:
            measure(report, peers, batch, repeats, device, dtype)
        if compiled:
            for part in (
                theirs.prior,
                theirs.decoder,
                theirs.super_res_first,
                theirs.super_res_last,
            ):
                part.compile()
            # On a CPU anew: of convolutions that are laid out already (`pack`) the compiler makes nothing.
            unpacked = ours if gpu else UnCLIP.load(folder, device, dtype)
            both = {"diffusers, compiled": their_draw(theirs, steps)} | our_peers(
                unpacked, steps, compiled=True
            )
            for batch in compiled:
                measure(report, both, batch, repeats, device, dtype)
    with report.part("plot"):
        plot(figures, out / f"pipeline-{size}-{device.type}.png")
    return figures


def tell(batch: int, found: dict[str, dict[str, float]], beside: dict[str, float] | None) -> None:
    """A row of the table a peer, its times also as a share of those `beside`."""
    for name, f in found.items():
        ratio, cpu = (
            f[key] / (beside or {}).get(key, float("nan")) for key in ("seconds", "cpu_seconds")
        )
        print(
            f"| batch {batch} | {name} | {f['seconds']:.2f} s ({ratio:.2f}) | CPU {f['cpu_seconds']:.2f} s ({cpu:.2f}) | "
            f"{f['images_per_s']:.3f} images/s | +{f['memory_mb']:.0f} MB | {100 * f['of_matmul_rate']:.0f} % of matmul |",
            flush=True,
        )


def plot(figures: dict[str, Any], path: Path) -> None:
    """Seconds an image against the batch, a line a peer."""
    mpl.use("agg")
    from matplotlib import pyplot as plt

    batches = list(figures["batches"])
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for name in dict.fromkeys(name for of in figures["batches"].values() for name in of["peers"]):
        there = sorted(
            int(batch) for batch in batches if name in figures["batches"][batch]["peers"]
        )
        axes.plot(
            there,
            [1 / figures["batches"][str(batch)]["peers"][name]["images_per_s"] for batch in there],
            "o-",
            label=name,
        )
    axes.set(
        xlabel="batch",
        ylabel="seconds an image",
        ylim=(0, None),
        title=f"{figures['size']}, {figures['device']}, {figures['dtype']}",
    )
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """With other numbers than `python -m benchmarks pipeline` has."""
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
        help="float16 on a GPU, float32 on a CPU where left out",
    )
    parser.add_argument(
        "--compiled",
        type=int,
        nargs="+",
        default=[],
        help="batches at which networks are compiled too, which takes minutes",
    )
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="after so many no part is begun"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON and the plot")
    given = vars(parser.parse_args())
    pipeline(**given | {"dtype": getattr(torch, given["dtype"]) if given["dtype"] else None})


if __name__ == "__main__":
    main()
