"""`python -m training.experiments NAME …`: repeat the paper's experiments on a checkpoint.

Each writes its part of the findings page.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from models import UnCLIP
from training.experiments import gallery, page, samplers
from training.experiments.harness import Bench
from training.experiments.paper import (
    aesthetics,
    components,
    conditioning,
    guidance,
    limits,
    operations,
    priors,
    typographic,
)
from training.scenes.solids.classifier import CLASSIFIER_FILE, load_classifier
from training.scenes.solids.scene import MIXES

OUT = Path("docs")  # folder of the page


class ExperimentModule(Protocol):
    """A module with an experiment."""

    def measure(self, bench: Bench, count: int, /) -> Any:
        """Generate and score images, and write the figures."""

    def report(self, result: Any, /) -> str:
        """Return the part of the page, in Markdown."""


@dataclass(frozen=True)
class Experiment:
    """An experiment's heading, module, default count, and what it counts."""

    title: str
    module: ExperimentModule
    count: int
    unit: str


# The whole page is about 130,000 rows through the decoder, each some 25 ms on two idle cores.
EXPERIMENTS = {
    "gallery": Experiment("Images", gallery, 12, "captions"),
    "conditioning": Experiment("Why a prior (§5.1)", conditioning, 96, "captions of each type"),
    "priors": Experiment("The two priors (§5.1, §5.2)", priors, 96, "captions of each type"),
    "guidance": Experiment("Guidance (§5.3, Fig. 9 and 10)", guidance, 32, "captions of each type"),
    "components": Experiment("What z_i holds (§4, Fig. 7)", components, 32, "renderings"),
    "typographic": Experiment(
        "The typographic attack (§4, Fig. 6)", typographic, 96, "scenes of each kind"
    ),
    "operations": Experiment("Manipulations (§3, Fig. 3 to 5)", operations, 8, "renderings"),
    "limits": Experiment("Limits (§7, Fig. 14 to 17)", limits, 40, "captions of each type"),
    "aesthetics": Experiment(
        "Aesthetic quality (§5.4, Fig. 12)", aesthetics, 32, "captions of each type"
    ),
    "samplers": Experiment("Samplers", samplers, 10, "captions of each type"),
}


def main() -> None:
    """Run the named experiments and write their parts of the page."""
    names = "; ".join(
        f"{name}: {each.title}, {each.count} {each.unit}" for name, each in EXPERIMENTS.items()
    )
    parser = argparse.ArgumentParser(prog="python -m training.experiments", description=__doc__)
    parser.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        choices=[*EXPERIMENTS, "all"],
        help=f"all, or one of {names}",
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="checkpoint folder (default: the bundled one)"
    )
    parser.add_argument("--classifier", type=Path, default=CLASSIFIER_FILE, help="its weights")
    parser.add_argument(
        "--mix",
        choices=MIXES,
        default="whole",
        help="mix of scenes: use the one that the checkpoint learned from",
    )
    parser.add_argument("--count", type=int, help="count of each experiment (default: its own)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the page (%(default)s)")
    arguments = parser.parse_args()
    bench = Bench(
        UnCLIP.load(arguments.checkpoint, arguments.device),
        load_classifier(arguments.classifier),
        arguments.out,
        arguments.mix,
    )
    checksum = bench.decoder_checksum
    # After this the weights cannot be read.
    bench.pipeline.prepack()
    for name in EXPERIMENTS if "all" in arguments.names else arguments.names:
        run(bench, name, arguments.count or EXPERIMENTS[name].count, checksum)


def run(bench: Bench, name: str, count: int, checksum: str) -> None:
    """Measure one experiment and write its part of the page."""
    experiment = EXPERIMENTS[name]
    started = time.perf_counter()
    text = experiment.module.report(experiment.module.measure(bench, count))
    command = f"`python -m training.experiments {name}`, --count {count} ({experiment.unit})"
    stamp = f"*{command}; checkpoint {bench.pipeline.name!r}, decoder {checksum}.*"
    path = bench.out / page.PAGE
    page.write_part(path, name, f"## {experiment.title}\n\n{stamp}\n\n{text}", list(EXPERIMENTS))
    print(f"{name}: {time.perf_counter() - started:.0f} s, in {path}")


if __name__ == "__main__":
    main()
