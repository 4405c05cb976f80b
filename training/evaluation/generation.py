"""Captions drawn in the ways that the paper compares (§5.1): through the prior, with z_t in z_i's place, and from the text alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor
from tqdm import tqdm

from models import UnCLIP
from models.parameters import Parameters
from models.row import Row
from training.evaluation.scoring import DETAILS, SORTS, captioned
from training.scenes.solids.captions import Caption
from training.scenes.solids.render import render
from training.scenes.solids.scene import COLOUR_NAMES, MIXES, SHAPES, Scene, scene

BATCH = 32
# Way -> what the decoder is given as z_i, beside the caption.
WAYS = {
    "prior": "the prior's z_i",
    "z_t": "z_t as z_i",
    "text": "text only",
}
REFERENCE_START = 1 << 24  # of the fresh scenes, those that captions' scenes do not reach


def latents(
    pipeline: UnCLIP,
    way: str,
    captions: Sequence[str],
    seeds: Sequence[int],
    parameters: Parameters,
) -> list[Row]:
    """Rows that have what the decoder is given in this way: the encoded caption and z_i."""
    rows = [
        pipeline.caption_row(text, seed, parameters, prior=way == "prior")
        for text, seed in zip(captions, seeds, strict=True)
    ]
    pipeline.draw(rows)
    for row in rows:
        assert row.conditioning is not None
        if way == "z_t":
            row.conditioning.z_i = row.conditioning.text.z_t[0]
        elif way == "text":
            row.conditioning.z_i = null_image(pipeline)
    return rows


def null_image(pipeline: UnCLIP) -> Tensor:
    """The z_i `[D]` that is to the decoder what a dropped one is: its learned null embedding, less the scale that it gives every z_i."""
    decoder = pipeline.decoder
    null = decoder.null_image.float().detach()
    return null / len(null) ** 0.5 if decoder.config.unit_norm else null


def draw(
    pipeline: UnCLIP,
    captions: Sequence[str],
    seeds: Sequence[int],
    way: str = "prior",
    label: str = "",
    **given: Any,
) -> Tensor:
    """A 64² image of each caption from its seed, `[B, 3, 64, 64]` on the CPU; `given` as in `UnCLIP.resolve`."""
    parameters = pipeline.resolve(size=64, **given)
    parts = []
    for start in tqdm(range(0, len(captions), BATCH), desc=label or WAYS[way], leave=False):
        part = slice(start, start + BATCH)
        sources = latents(pipeline, way, captions[part], seeds[part], parameters)
        parts.append(decoded(pipeline, sources, seeds[part], parameters))
    return torch.cat(parts)


def decoded(
    pipeline: UnCLIP, sources: Sequence[Row], seeds: Sequence[int], parameters: Parameters
) -> Tensor:
    """What the decoder makes of rows that end with a conditioning, `[B, 3, 64, 64]` on the CPU."""
    rows = [
        pipeline.latent_row(replace(row.conditioning, x_T=None), seed, parameters)
        for row, seed in zip(sources, seeds, strict=True)
        if row.conditioning is not None
    ]
    pipeline.draw(rows)
    return torch.stack([cast(Tensor, row.image) for row in rows]).cpu()


@torch.inference_mode()
def embed(pipeline: UnCLIP, images: Tensor) -> Tensor:
    """z_i `[B, D]` of images `[B, 3, S, S]`, on the CPU."""
    return torch.cat(
        [pipeline.clip.encode_image(part.to(pipeline.device)).cpu() for part in images.split(64)]
    )


@torch.inference_mode()
def embed_text(pipeline: UnCLIP, captions: Sequence[str]) -> Tensor:
    """z_t `[B, D]` of captions, on the CPU."""
    return pipeline.clip.encode_text(pipeline.clip.tokenize(list(captions))[0]).z_t.cpu()


@dataclass(frozen=True)
class Subjects:
    """Captions that training never read, the fresh scenes they are of, and the seeds that they are drawn from."""

    scenes: list[Scene]
    captions: list[Caption]
    seeds: list[int]

    @property
    def texts(self) -> list[str]:
        return [said.text for said in self.captions]

    def images(self) -> Tensor:
        """The scenes' own drawings `[B, 3, 64, 64]`: the upper limit of every measure."""
        return drawings(self.scenes)


def subjects(sorts: Sequence[str], count: int, mix: str = "whole") -> Subjects:
    """`count` of each sort (see judge.SORTS), in this order; the k-th of each has the seed k, however many there are."""
    known = SORTS | DETAILS
    pairs = [pair for sort in sorts for pair in islice(captioned(known[sort], mix), count)]
    return Subjects(
        [shown for shown, _ in pairs],
        [said for _, said in pairs],
        [k for _ in sorts for k in range(count)],
    )


def drawings(scenes: Sequence[Scene]) -> Tensor:
    """Scenes at 64², `[B, 3, 64, 64]`."""
    return torch.cat(
        [render(scenes[start : start + BATCH], 64) for start in range(0, len(scenes), BATCH)]
    )


@cache
def reference(pipeline: UnCLIP, sorts: tuple[str, ...], count: int, mix: str = "whole") -> Tensor:
    """z_i of drawings of other fresh scenes of these sorts, `count` of each: what the sets of images are held against."""
    found = [shown for sort in sorts for shown in islice(_others(sort, mix), count)]
    return torch.cat(
        [
            embed(pipeline, drawings(found[start : start + 256]))
            for start in range(0, len(found), 256)
        ]
    )


def _others(sort: str, mix: str) -> Iterator[Scene]:
    index = REFERENCE_START
    while True:
        shown = scene(index, MIXES[mix], SORTS[sort].split)
        index += 2
        if shown.kind == SORTS[sort].kind:
            yield shown


def matching(
    colour: str, shape: str, count: int, mix: str = "whole", start: int = REFERENCE_START
) -> list[Scene]:
    """Fresh photographic scenes of one thing of this colour and shape, everything else as it falls."""
    found = list[Scene]()
    index = start
    while len(found) < count:
        shown = scene(index, MIXES[mix], "fresh")
        index += 2
        if (
            shown.kind == "one"
            and shown.style == "photo"
            and (shown.things[0].colour, shown.things[0].shape) == (colour, shape)
        ):
            found.append(shown)
    return found


def plain_captions(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """(colour, shape) of `count` captions "a red cube", which leave all else open, each once."""
    return random.Random(seed).sample(
        [(colour, shape) for colour in COLOUR_NAMES for shape in SHAPES], count
    )
