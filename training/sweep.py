"""`python -m training.sweep`: quality against the decoder's evaluations, for each sampler. Writes docs/samplers.md and its plot.

Two measures. *Right*: how many pictures of fresh captions show the things that were said, by the scene reader. *Distance*: root mean
square between a picture and the one that the probability-flow ODE leads to from the same noise (Heun, 499 evaluations), for samplers
that solve it.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from models import UnCLIP
from training.captions import Caption
from training.evaluate import SORTS, captioned, judged, load_reader
from training.reader import Reader

EVALUATIONS = (4, 6, 8, 12, 16, 24, 32, 64)
REFERENCE = {"sampler": "heun", "decoder_num_inference_steps": 250}
ODE = ("ddim", "dpm++", "unipc", "heun")
BATCH = 48


@dataclass(frozen=True)
class Line:
    """One line of the plot: a sampler and what else is set."""

    name: str
    parameters: dict[str, Any]
    solves_ode: bool = False

    def at(self, evaluations: int) -> dict[str, Any]:
        """Its parameters for so many evaluations; Heun makes 2n - 1 in n steps."""
        steps = (evaluations + 1) // 2 if self.parameters["sampler"] == "heun" else evaluations
        return self.parameters | {"decoder_num_inference_steps": steps}


LINES = (
    Line("DDPM", {"sampler": "ddpm"}),
    Line("DDIM, eta 1", {"sampler": "ddim", "eta": 1.0}),
    Line("DDIM", {"sampler": "ddim"}, solves_ode=True),
    Line("DPM-Solver++ 2M", {"sampler": "dpm++"}, solves_ode=True),
    Line("UniPC", {"sampler": "unipc"}, solves_ode=True),
    Line("Heun", {"sampler": "heun"}, solves_ode=True),
)
# At a guidance that is felt, what limits it: all steps, the interval, dynamic thresholding, both.
STRONG = {"sampler": "dpm++", "decoder_guidance_scale": 6.0}
GUIDED = (
    Line("guidance 6", STRONG),
    Line("guidance 6, on steps 0.1 to 0.7", STRONG | {"decoder_guidance_start": 0.1, "decoder_guidance_stop": 0.7}),
    Line("guidance 6, dynamic threshold 0.995", STRONG | {"dynamic_threshold": 0.995}),
)


@dataclass(frozen=True)
class Point:
    """What a line gave at so many evaluations."""

    right: float
    distance: float | None


def drawn(stack: UnCLIP, captions: list[Caption], parameters: dict[str, Any]) -> Tensor:
    """A 64² picture of each caption, from seeds 0, 1, 2 …"""
    parts = []
    for start in range(0, len(captions), BATCH):
        prompts = [said.text for said in captions[start : start + BATCH]]
        parts.append(stack.generate(prompts, seeds=range(start, start + len(prompts)), size=64, **parameters).cpu())
    return torch.cat(parts)


def sweep(stack: UnCLIP, reader: Reader, count: int, mix: str = "objects") -> dict[str, dict[int, Point]]:
    """Each line's points, on `count` captions of one object and as many of two in relation."""
    captions: list[Caption] = []
    for sort in ("one object", "two in relation"):
        source = captioned(SORTS[sort], mix)
        captions += [next(source)[1] for _ in range(count)]
    exact = drawn(stack, captions, REFERENCE)
    cells = [(line, n) for line in LINES for n in EVALUATIONS] + [(line, 16) for line in GUIDED]
    found: dict[str, dict[int, Point]] = {}
    for line, evaluations in tqdm(cells, desc="sweep"):
        pictures = drawn(stack, captions, line.at(evaluations))
        distance = float((pictures - exact).square().flatten(1).mean(1).sqrt().mean()) if line.solves_ode else None
        right = statistics.fmean(judged(reader, pictures, captions)["core"])
        found.setdefault(line.name, {})[evaluations] = Point(right, distance)
    found["Heun, 499 evaluations"] = {499: Point(statistics.fmean(judged(reader, exact, captions)["core"]), 0.0)}
    return found


def report(found: dict[str, dict[int, Point]], stack: UnCLIP, count: int) -> str:
    """The sweep as Markdown."""
    head = f"| sampler | {' | '.join(map(str, EVALUATIONS))} |\n| --- | {' | '.join('---' for _ in EVALUATIONS)} |"
    right = [_row(line.name, [f"{100 * found[line.name][n].right:.1f}" for n in EVALUATIONS]) for line in LINES]
    ode = [line for line in LINES if line.solves_ode]
    distances = [_row(line.name, [f"{found[line.name][n].distance:.3f}" for n in EVALUATIONS]) for line in ode]
    guided = [_row(line.name, [f"{100 * found[line.name][16].right:.1f}"]) for line in GUIDED]
    exact = 100 * found["Heun, 499 evaluations"][499].right
    guidance = stack.resolve(size=64).decoder_guidance_scale
    error = 100 * (0.25 / (2 * count)) ** 0.5
    return f"""# Samplers

Quality against the decoder's evaluations, on the checkpoint {stack.name!r} at 64² and guidance {guidance:g}: {2 * count} fresh captions,
half of one object and half of two in relation, each from the same noise in every cell. Reproduce: `python -m training.sweep`.

![Right pictures, and distance to the exact solution, against evaluations](samplers.png)

Pictures that show the things that were said, in per cent by the scene reader (standard error at most {error:.1f}); the exact
solution of the ODE: {exact:.1f}. A Heun step is two evaluations; its columns have one less.

{head}
{chr(10).join(right)}

Root mean square distance to the exact solution of the probability-flow ODE, on a scale of -1 to 1:

{head}
{chr(10).join(distances)}

Strong guidance at 16 evaluations of DPM-Solver++ 2M: limited to an interval of the steps, which also saves the unconditional half
outside, and with dynamic thresholding.

| variant | right |
| --- | --- |
{chr(10).join(guided)}
"""


def _row(name: str, cells: list[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def plot(found: dict[str, dict[int, Point]], path: Path) -> None:
    """Both measures against evaluations."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for line in LINES:
        points = found[line.name]
        left.plot(EVALUATIONS, [100 * points[n].right for n in EVALUATIONS], marker="o", markersize=3, label=line.name)
        if line.solves_ode:
            right.plot(EVALUATIONS, [points[n].distance for n in EVALUATIONS], marker="o", markersize=3, label=line.name)
    left.set(xscale="log", xlabel="evaluations of the decoder", ylabel="right, %")
    right.set(xscale="log", yscale="log", xlabel="evaluations of the decoder", ylabel="distance to the exact solution")
    for axes in (left, right):
        axes.set_xticks(EVALUATIONS, [str(n) for n in EVALUATIONS])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def main() -> None:
    """Draw, count, write the page."""
    parser = argparse.ArgumentParser(prog="python -m training.sweep", description=main.__doc__)
    parser.add_argument("--checkpoint", type=Path, default=None, help="checkpoint folder (default: the embedded one)")
    parser.add_argument("--count", type=int, default=96, help="captions of each sort")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    stack = UnCLIP.load(arguments.checkpoint, arguments.device)
    found = sweep(stack, load_reader(), arguments.count)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "samplers.md").write_text(report(found, stack, arguments.count))
    plot(found, arguments.out / "samplers.png")


if __name__ == "__main__":
    main()
