"""Our stack beside diffusers' UnCLIPPipeline: the same random weights, steps, guidance and machine.

    python -m benchmarks.stack [--size karlo] [--batches 1 4 16] [--steps 25 25 7] [--repeats 3] [--dtype float16] [--eager]

All peers are in one process, and take turns repeat by repeat, so that what else the machine does meets all of them; a figure is the
median of a peer's repeats. Beside seconds it tells the process's own CPU seconds: on a machine that others use too, those are the
steadier ones. FLOPs are counted by torch for each peer, and compared with what this machine's matrix product does at that moment.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import matplotlib as mpl
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.karlo_pair import SIZES, pair
from models import UnCLIP

RESULTS = Path(__file__).parent / "results"
PROMPT = "a red cube on top of a blue cube, on snow"
GUIDANCE = {"prior_guidance_scale": 4.0, "decoder_guidance_scale": 8.0}
STEPS = (25, 25, 7)  # of prior, decoder and upsampler: Karlo's "fast" preset
OURS = ("prior_num_inference_steps", "decoder_num_inference_steps", "upsampler_num_inference_steps")
THEIRS = ("prior_num_inference_steps", "decoder_num_inference_steps", "super_res_num_inference_steps")


@dataclass
class Taken:
    """What one run took. `memory`: bytes held at most beyond what was held before it."""

    seconds: float
    cpu_seconds: float
    memory: int


Draw = Callable[[int], object]  # so many pictures


def our_draw(stack: UnCLIP, steps: Sequence[int]) -> Draw:
    """Pictures of 256² by our stack."""
    asked: dict[str, Any] = dict(zip(OURS, steps, strict=True)) | GUIDANCE
    return lambda batch: stack.generate([PROMPT] * batch, size=256, sampler="ddpm", **asked)


def their_draw(pipeline: Any, steps: Sequence[int]) -> Draw:
    """The same by diffusers."""
    asked: dict[str, Any] = dict(zip(THEIRS, steps, strict=True)) | GUIDANCE
    return lambda batch: pipeline([PROMPT] * batch, output_type="np", **asked)


def compiled_peers(folder: Path, device: torch.device, dtype: torch.dtype, steps: Sequence[int]) -> dict[str, Draw]:
    """Both once more, their networks by torch.compile."""
    pipeline = diffusers.UnCLIPPipeline.from_pretrained(folder, torch_dtype=dtype).to(device)
    pipeline.set_progress_bar_config(disable=True)
    for part in (pipeline.prior, pipeline.decoder, pipeline.super_res_first, pipeline.super_res_last):
        part.compile()
    stack = UnCLIP.load(folder, device, dtype)
    for network in (stack.decoder.unet, *(unet for unet in stack.upsamplers[256].children())):
        network.compile()
    return {"ours, compiled": our_draw(stack, steps), "diffusers, compiled": their_draw(pipeline, steps)}


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
    started, cpu = time.perf_counter(), time.process_time()
    draw(batch)
    wait(device)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    most = torch.cuda.max_memory_allocated(device) if gpu else held("VmHWM")
    return Taken(seconds, cpu, most - before)


def flops(draw: Draw) -> int:
    """Of one picture."""
    with FlopCounterMode(display=False) as counter:
        draw(1)
    return int(counter.get_total_flops())


def figures_of(taken: Sequence[Taken], batch: int, work: int, rate: float, device: torch.device) -> dict[str, float]:
    """Medians, and what follows from them; `work`: FLOPs of one picture."""
    seconds, cpu = (statistics.median(getattr(one, name) for one in taken) for name in ("seconds", "cpu_seconds"))
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "images_per_s": batch / seconds,
        "memory_mb": max(one.memory for one in taken) / 1e6,
        "of_matmul_rate": work * batch / (seconds if device.type == "cuda" else cpu) / rate,
    }


def stack(
    size: str = "mini",
    batches: Sequence[int] = (1, 4, 16),
    steps: Sequence[int] = STEPS,
    repeats: int = 3,
    dtype: torch.dtype | None = None,
    eager: bool = False,
    out: Path = RESULTS,
) -> dict[str, Any]:
    """Measure all peers at each batch; the figures, also as JSON and as a plot in `out`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if size == "karlo" and device.type == "cpu":
        raise SystemExit("size karlo is 3.4 billion parameters and needs a GPU, and torch finds none: --size mini is for a CPU")
    dtype = dtype or (torch.float16 if device.type == "cuda" else torch.float32)
    figures: dict[str, Any] = {"size": size, "device": str(device), "dtype": str(dtype), "steps": list(steps), "repeats": repeats}
    figures |= {"threads": torch.get_num_threads(), "torch": torch.__version__, "batches": {}}
    with tempfile.TemporaryDirectory() as scratch:
        theirs, ours = pair(size, device, dtype, Path(scratch))
        peers = {"ours": our_draw(ours, steps), "diffusers": their_draw(theirs, steps)}
        work = {name: flops(draw) for name, draw in peers.items()}  # which warms up as well
        ours.pack()
        draw = peers["ours"]
        draw(1)
        if not eager:
            more = compiled_peers(Path(scratch), device, dtype, steps)
            peers |= more
            work |= {name: work[name.split(",")[0]] for name in more}
        figures["tflop"] = {name: count / 1e12 for name, count in work.items()}
        print(f"| {size}, {device}, {dtype}, {torch.get_num_threads()} threads, steps {' '.join(map(str, steps))} |")
        for batch in batches:
            rate = matmul_rate(device, dtype)
            taken: dict[str, list[Taken]] = {name: [] for name in peers}
            if not eager:
                for draw in peers.values():
                    draw(batch)  # compiles for this batch
            for _ in range(repeats):
                for name, draw in peers.items():
                    taken[name].append(run(draw, batch, device))
            found = {name: figures_of(of, batch, work[name], rate, device) for name, of in taken.items()}
            figures["batches"][str(batch)] = {"matmul_tflops": rate / 1e12, "peers": found}
            tell(batch, found)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"stack-{size}-{device.type}.json").write_text(json.dumps(figures, indent=2) + "\n")
    plot(figures, out / f"stack-{size}-{device.type}.png")
    return figures


def tell(batch: int, found: dict[str, dict[str, float]]) -> None:
    """A row of the table a peer."""
    for name, f in found.items():
        ratio, cpu = (f[key] / found["diffusers"][key] for key in ("seconds", "cpu_seconds"))
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
    for name in figures["batches"][batches[0]]["peers"]:
        axes.plot(batches, [1 / figures["batches"][batch]["peers"][name]["images_per_s"] for batch in batches], "o-", label=name)
    axes.set(xlabel="batch", ylabel="seconds an image", ylim=(0, None), title=f"{figures['size']}, {figures['device']}, {figures['dtype']}")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """With other numbers than `python -m benchmarks stack` has."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stack", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="mini")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--steps", type=int, nargs=3, default=STEPS, metavar=("PRIOR", "DECODER", "UPSAMPLER"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="float16 on a GPU, float32 on a CPU where left out")
    parser.add_argument("--eager", action="store_true", help="without the compiled peers, whose compilation takes minutes")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON and the plot")
    given = vars(parser.parse_args())
    stack(**given | {"dtype": getattr(torch, given["dtype"]) if given["dtype"] else None})


if __name__ == "__main__":
    main()
