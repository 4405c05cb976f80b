"""`python -m training.experiments NAME …`: repeat the paper's experiments on a checkpoint, and write their parts of docs/findings.md."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from models import UnCLIP
from training.evaluation.scoring import READER, load_reader
from training.experiments import (
    aesthetics,
    cache,
    components,
    conditioning,
    gallery,
    guidance,
    limits,
    operations,
    page,
    priors,
    samplers,
    typographic,
)
from training.experiments.harness import Bench
from training.scenes.solids.scene import MIXES


@dataclass(frozen=True)
class Experiment:
    """Its heading on the page, how it is run, and how many of what it counts where nothing else is asked for."""

    title: str
    run: Callable[[Bench, int], str]
    count: int
    of: str


# Not measured whole: 130,000 rows through the decoder, of which one takes some 25 ms on two idle cores.
EXPERIMENTS = {
    "gallery": Experiment("Images", gallery.run, 12, "captions"),
    "conditioning": Experiment("Why a prior (§5.1)", conditioning.run, 96, "captions of each sort"),
    "priors": Experiment("The two priors (§5.1, §5.2)", priors.run, 96, "captions of each sort"),
    "guidance": Experiment(
        "Guidance (§5.3, Fig. 9 and 10)", guidance.run, 32, "captions of each sort"
    ),
    "components": Experiment("What z_i holds (§4, Fig. 7)", components.run, 32, "drawings"),
    "typographic": Experiment(
        "The typographic attack (§4, Fig. 6)", typographic.run, 96, "scenes of each kind"
    ),
    "operations": Experiment("Manipulations (§3, Fig. 3 to 5)", operations.run, 8, "drawings"),
    "limits": Experiment("Limits (§7, Fig. 14 to 17)", limits.run, 40, "captions of each sort"),
    "aesthetics": Experiment(
        "Aesthetic quality (§5.4, Fig. 12)", aesthetics.run, 32, "captions of each sort"
    ),
    "samplers": Experiment("Samplers", samplers.run, 10, "captions of each sort"),
    "cache": Experiment("The priors' prefix cache", cache.run, 96, "captions of each sort"),
}


def main() -> None:
    """Run those named, and put what they found into the page."""
    listed = "; ".join(
        f"{name}: {each.title}, {each.count} {each.of}" for name, each in EXPERIMENTS.items()
    )
    parser = argparse.ArgumentParser(prog="python -m training.experiments", description=__doc__)
    parser.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        choices=[*EXPERIMENTS, "all"],
        help=f"all, or of {listed}",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=None,
        help="checkpoint folder (default: the embedded one)",
    )
    parser.add_argument("--reader", type=Path, default=READER)
    parser.add_argument(
        "--mix",
        choices=MIXES,
        default="whole",
        help="of the scenes: the one that the checkpoint learned from",
    )
    parser.add_argument("--count", type=int, default=None, help="in place of each experiment's own")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    bench = Bench(
        UnCLIP.load(arguments.checkpoint, arguments.device),
        load_reader(arguments.reader),
        arguments.out,
        arguments.mix,
    )
    checksum = bench.decoder_checksum
    bench.pipeline.pack()  # after which no weights can be read
    for name in EXPERIMENTS if "all" in arguments.names else arguments.names:
        each = EXPERIMENTS[name]
        started = time.perf_counter()
        count = arguments.count or each.count
        said = each.run(bench, count)
        command = f"`python -m training.experiments {name}`, --count {count} ({each.of})"
        stamp = f"*{command}; checkpoint {bench.pipeline.name!r}, decoder {checksum}.*"
        page.write(
            arguments.out / "findings.md",
            name,
            f"## {each.title}\n\n{stamp}\n\n{said}",
            list(EXPERIMENTS),
        )
        print(f"{name}: {time.perf_counter() - started:.0f} s, in {arguments.out / 'findings.md'}")


if __name__ == "__main__":
    main()
