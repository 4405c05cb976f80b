"""Aesthetic quality and guidance (paper §5.4, Fig. 12): a linear probe on CLIP embeddings, used on samples.

The paper's probe learned from AVA's ratings by people. There are none of the drawn world, so this one learns from ratings made up by a
rule that is told; what is shown is that the instrument works. With people's ratings: `python -m training.evaluation.aesthetics`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.evaluation.aesthetics import fit_and_test
from training.evaluation.figures import number, table
from training.evaluation.generation import WAYS, drawings, embed, subjects
from training.evaluation.metrics import mean, spearman
from training.experiments.guidance import COMPARED, SCALES, SORTS
from training.experiments.harness import Bench
from training.scenes.solids.scene import MIXES, scene

RATED = 1024  # drawings
RATERS_NOISE = 0.7  # standard deviation of what one image's mean rating is off by, in points
FIRST = 1 << 25  # fresh scenes that nothing else here is measured on


def colourfulness(images: Tensor) -> Tensor:
    """Hasler & Süsstrunk 2003 (eq. 5) of images `[B, 3, s, s]` in [-1, 1], on their scale, where 0 is grey: `[B]`."""
    red, green, blue = images.double().add(1).mul(127.5).flatten(2).unbind(1)
    rg = red - green
    yb = (red + green) / 2 - blue
    deviation = (rg.var(1) + yb.var(1)).sqrt()
    return deviation + 0.3 * (rg.mean(1).square() + yb.mean(1).square()).sqrt()


def ratings(images: Tensor) -> Tensor:
    """The made-up rating, 1 to 10: a point for every 12 of colourfulness above the first."""
    return (1 + colourfulness(images) / 12).clamp(1, 10)


def run(bench: Bench, count: int) -> str:
    """The probe's rating of images at each scale, of `count` captions of each sort: those of the guidance experiment."""
    x = drawings([scene(FIRST + 2 * k, MIXES[bench.mix], "fresh") for k in range(RATED)])
    noise = (
        torch.randn(len(x), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        * RATERS_NOISE
    )
    found = fit_and_test(embed(bench.pipeline, x), ratings(x) + noise)
    of = subjects(SORTS, count, bench.mix)
    rows = []
    said = []
    for way in COMPARED:
        scores = list[Tensor]()
        truths = list[Tensor]()
        for scale in SCALES:
            images = bench.draw(of.texts, of.seeds, way, decoder_guidance_scale=scale)
            scores.append(found.probe(embed(bench.pipeline, images)))
            truths.append(ratings(images))
            rows.append(
                [WAYS[way], f"{scale:g}", number(mean(scores[-1]), 2), number(mean(truths[-1]), 2)]
            )
        scales = torch.tensor(SCALES).repeat_interleave(len(of.texts))
        rho = spearman(scales, torch.cat(scores))
        rule = spearman(scales, torch.cat(truths))
        follows = spearman(torch.cat(scores), torch.cat(truths))
        direction = (
            "rises with" if rho > 0.1 else "falls with" if rho < -0.1 else "hardly depends on"
        )
        opening = "As in the paper" if rho > 0.1 else "Not as in the paper"
        said.append(
            f"- **{opening}**, where it rose for both: of {WAYS[way]} the foretold rating {direction} guidance (Spearman {rho:.2f}; the "
            f"rule itself {rule:.2f}). On these samples the probe agrees with the rule at {follows:.2f}."
        )
    return "\n\n".join(
        [
            f"**No people rated these.** {len(x)} drawings have a made-up rating of 1 to 10, their colourfulness (Hasler & Süsstrunk 2003) "
            f"and noise of {RATERS_NOISE} points as of raters who differ. A ridge regression on z_i foretells it for {found.held_out} "
            f"drawings held out with Pearson {found.pearson:.2f} and Spearman {found.spearman:.2f}. On images of {len(of.texts)} "
            "captions:",
            table(["way", "guidance", "foretold rating", "by the rule itself"], rows),
            "\n".join(said),
            "A file of people's ratings in AVA's form takes the rule's place: `python -m training.evaluation.aesthetics ratings.csv --rate FOLDER`.",
        ]
    )
