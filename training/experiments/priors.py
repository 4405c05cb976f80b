"""The autoregressive against the diffusion prior (paper §5.1 and §5.2)."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from torch import Tensor

from training.evaluation.figures import number, percent, table
from training.evaluation.generation import BATCH, embed, embed_text, latents, reference, subjects
from training.evaluation.metrics import Estimate, frechet_distance, mean, mmd, share
from training.evaluation.scoring import judged
from training.experiments.harness import Bench, below, verdict

SORTS = ("one object", "two in relation")
REFERENCES = 1024  # drawings of each sort


def run(bench: Bench, count: int) -> str:
    """`count` captions of each sort; embeddings of all, images of all."""
    pipeline = bench.pipeline
    if pipeline.ar_prior is None:
        return f"The checkpoint {pipeline.name!r} has no autoregressive prior."
    of = subjects(SORTS, count, bench.mix)
    given = reference(pipeline, SORTS, max(REFERENCES, 2 * count), bench.mix)
    own = embed(pipeline, of.images())
    z_t = embed_text(pipeline, of.texts)
    right = dict[str, Estimate]()
    cosine = dict[str, Estimate]()
    distance = dict[str, Estimate]()
    rows = []
    for prior in pipeline.priors:
        parameters = pipeline.resolve(size=64, prior=prior)
        found = list[Tensor]()
        seconds = 0.0
        for start in range(0, len(of.texts), BATCH):
            part = slice(start, start + BATCH)
            started = time.perf_counter()
            sources = latents(pipeline, "prior", of.texts[part], of.seeds[part], parameters)
            seconds += time.perf_counter() - started
            found += [
                row.conditioning.z_i.cpu()
                for row in sources
                if row.conditioning is not None and row.conditioning.z_i is not None
            ]
        z_i = torch.stack(found)
        images = bench.draw(of.texts, of.seeds, prior=prior)
        core = judged(bench.reader, images, of.captions)["core"]
        right[prior] = share(sum(core), len(core))
        distance[prior] = frechet_distance(z_i, given)
        cosine[prior] = mean(F.cosine_similarity(z_i, own))
        rows.append(
            [
                prior,
                *(
                    percent(share(sum(core[k * count : (k + 1) * count]), count))
                    for k in range(len(SORTS))
                ),
                number(cosine[prior], 3),
                number(distance[prior], 2, 100),
                number(mmd(z_i, given), 2, 100),
                f"{1000 * seconds / len(z_i):.1f}",
            ]
        )
    for name, z in (("z_t itself", z_t), ("the drawings' z_i", own)):
        cells = [
            number(mean(F.cosine_similarity(z, own)), 3),
            number(frechet_distance(z, given), 2, 100),
            number(mmd(z, given), 2, 100),
            "",
        ]
        rows.append([name, "", "", *cells])
    heads = [
        "z_i from",
        *(f"right, %: {sort}" for sort in SORTS),
        "cosine to the scene's z_i",
        "Fréchet × 100",
        "MMD × 100",
        "ms each",
    ]
    defaults = pipeline.resolve()
    return "\n\n".join(
        [
            f"Both priors on the same captions and seeds, in batches of {BATCH}: the diffusion prior with "
            f"{defaults.prior_num_inference_steps} steps and the best of {defaults.prior_num_candidates}, the autoregressive one with "
            f"{pipeline.ar_prior.config.components} components of {pipeline.ar_prior.config.buckets} buckets. Fréchet distance and MMD are of "
            f"the embeddings themselves, to those of {len(given)} other drawings. A caption leaves much open, so the cosine to its scene's "
            "z_i cannot be 1.",
            table(heads, rows),
            "\n".join(
                [
                    verdict(
                        below(distance["diffusion"], distance["autoregressive"]),
                        "the diffusion prior's embeddings are nearer to those of drawings than the autoregressive one's.",
                    ),
                    verdict(
                        below(right["autoregressive"], right["diffusion"]),
                        "and more of its images are right.",
                    ),
                    verdict(
                        below(cosine["autoregressive"], cosine["diffusion"]),
                        "and its z_i is nearer to the scene's own.",
                    ),
                    "- The paper compares them at equal size, and by people: it found the diffusion prior better with less compute.",
                ]
            ),
        ]
    )
