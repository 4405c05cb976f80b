"""Why a prior (paper §5.1): the decoder given the prior's z_i, z_t in its place, or no z_i at all."""

from __future__ import annotations

import torch
from torch import Tensor

from training.evaluation.figures import number, percent, sheet, table, wrapped
from training.evaluation.generation import WAYS, embed, embed_text, reference, subjects
from training.evaluation.metrics import Estimate, clip_score, frechet_distance, mmd, share
from training.evaluation.scoring import judged
from training.experiments.harness import Bench, below, embedded, verdict

SORTS = ("one object", "two in relation", "two in relation, kept back")
COMPARED = SORTS[
    :2
]  # of which the sets of images are compared: what is kept back is another set than training's
PAPER = {"prior": "7.99", "z_t": "16.55", "text": "9.16"}  # FID of small models, §5.1
REFERENCES = 1024  # drawings of each sort
SHOWN = 6


def run(bench: Bench, count: int) -> str:
    """`count` captions of each sort, in each way."""
    of = subjects(SORTS, count, bench.mix)
    z_t = embed_text(bench.pipeline, of.texts)
    given = reference(bench.pipeline, COMPARED, max(REFERENCES, 2 * count), bench.mix)
    compared = slice(0, count * len(COMPARED))
    images = {way: bench.draw(of.texts, of.seeds, way) for way in WAYS} | {"drawings": of.images()}
    rows = []
    right = dict[str, Estimate]()
    distance = dict[str, Estimate]()
    for way, drawn in images.items():
        core = judged(bench.reader, drawn, of.captions)["core"]
        z_i = embed(bench.pipeline, drawn)
        right[way] = share(sum(core), len(core))
        distance[way] = frechet_distance(z_i[compared], given)
        rows.append(
            [
                WAYS.get(way, "the drawings"),
                *(
                    percent(share(sum(core[k * count : (k + 1) * count]), count))
                    for k in range(len(SORTS))
                ),
                number(clip_score(z_i, z_t), 3),
                number(distance[way], 2, 100),
                number(mmd(z_i[compared], given), 2, 100),
                PAPER.get(way, ""),
            ]
        )
    sheet(
        [picked(drawn, count) for drawn in images.values()],
        bench.figure("conditioning.jpg"),
        left=[WAYS.get(way, "the drawings") for way in images],
        above=[wrapped(said) for said in picked_texts(of.texts, count)],
    )
    heads = [
        "the decoder is given",
        *(f"right, %: {sort}" for sort in SORTS),
        "CLIP score",
        "Fréchet × 100",
        "MMD × 100",
        "paper's FID",
    ]
    return "\n\n".join(
        [
            "The decoder learned with z_i withheld in a tenth of its images, so it can do without; and z_t lies where z_i does, so it "
            "can stand in. Both without training anew (the paper's text decoder was trained as one). The CLIP score is the cosine of "
            f"image and caption, Fréchet distance and MMD are between CLIP's embeddings of images and of other drawings ({len(given)} "
            "of them, of one or two things).",
            table(heads, rows),
            embedded(
                "conditioning.jpg", "The same captions and seeds in each way, above the drawings"
            ),
            "\n".join(judgement(right, distance)),
        ]
    )


def judgement(right: dict[str, Estimate], distance: dict[str, Estimate]) -> list[str]:
    """The paper's order, found again or not."""
    agreed = (
        below(distance["prior"], distance["text"]),
        below(distance["prior"], distance["z_t"]),
        below(distance["text"], distance["z_t"]),
    )
    said = {way: f"{100 * estimate.value:.0f} %" for way, estimate in right.items()}
    return [
        verdict(
            agreed[0], "images by the prior are nearer to the drawings than those from text only."
        ),
        verdict(agreed[1], "they are nearer than those with z_t as z_i."),
        verdict(agreed[2], "text only is nearer than z_t as z_i."),
        verdict(
            below(right["z_t"], right["prior"]),
            f"captions are followed better through the prior ({said['prior']} right) than with z_t as z_i ({said['z_t']}).",
        ),
        f"- Text only has {said['text']} right; "
        + {
            True: "fewer than through the prior, so of some of what a caption says the decoder learns from z_i only.",
            False: "the decoder reads the caption better than the prior's z_i tells it.",
            None: "as many as through the prior, within the intervals.",
        }[below(right["text"], right["prior"])],
    ]


def picked(images: Tensor, count: int) -> Tensor:
    """A few of each compared sort."""
    half = SHOWN // 2
    return torch.cat(
        [images[k * count : k * count + min(half, count)] for k in range(len(COMPARED))]
    )


def picked_texts(texts: list[str], count: int) -> list[str]:
    """Their captions."""
    return [
        text
        for k in range(len(COMPARED))
        for text in texts[k * count : k * count + min(SHOWN // 2, count)]
    ]
