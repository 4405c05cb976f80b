"""Images of test captions in the conditioning modes that the paper compares (§5.1).

The decoder gets the prior's z_i, z_t in its place, or the text alone.
"""

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
from training.evaluation.solids.scoring import CAPTION_TYPES, DETAIL_TYPES, draw_test_captions
from training.scenes.solids.captions import Caption
from training.scenes.solids.render import render
from training.scenes.solids.scene import COLOUR_NAMES, MIXES, SHAPES, Scene, draw_scene

BATCH = 32
# Mode -> what the decoder gets as z_i, in addition to the caption.
CONDITIONING_MODES = {
    "prior": "the prior's z_i",
    "z_t": "z_t as z_i",
    "text": "text only",
}
RENDERINGS = "renderings"  # in reports: the captions' own scenes, an upper limit
REFERENCE_START = 1 << 24  # of the test scenes, beyond those of test captions


def encode_conditioning(
    pipeline: UnCLIP,
    mode: str,
    captions: Sequence[str],
    seeds: Sequence[int],
    parameters: Parameters,
) -> list[Row]:
    """Return rows with the encoded caption and the z_i of a conditioning mode."""
    rows = [
        pipeline.prompt_row(text, seed, parameters, prior=mode == "prior")
        for text, seed in zip(captions, seeds, strict=True)
    ]
    pipeline.run(rows)
    for row in rows:
        assert row.conditioning is not None
        if mode == "z_t":
            row.conditioning.z_i = row.conditioning.text.z_t[0]
        elif mode == "text":
            row.conditioning.z_i = null_embedding(pipeline)
    return rows


def null_embedding(pipeline: UnCLIP) -> Tensor:
    """Return the z_i `[D]` that the decoder treats as a dropped one.

    It is the learned null embedding, divided by the scale that the decoder applies to every z_i."""
    decoder = pipeline.decoder
    null = decoder.null_image.float().detach()
    return null / len(null) ** 0.5 if decoder.config.unit_norm else null


def generate(
    pipeline: UnCLIP,
    captions: Sequence[str],
    seeds: Sequence[int],
    mode: str = "prior",
    label: str = "",
    **parameters: Any,
) -> Tensor:
    """Generate a 64² image of each caption, `[B, 3, 64, 64]` on the CPU.

    `parameters` are those of `UnCLIP.resolve`, `label` is for the progress bar."""
    resolved = pipeline.resolve(size=64, **parameters)
    parts = []
    starts = range(0, len(captions), BATCH)
    for start in tqdm(starts, desc=label or CONDITIONING_MODES[mode], leave=False):
        part = slice(start, start + BATCH)
        sources = encode_conditioning(pipeline, mode, captions[part], seeds[part], resolved)
        parts.append(decode_rows(pipeline, sources, seeds[part], resolved))
    return torch.cat(parts)


def decode_rows(
    pipeline: UnCLIP, sources: Sequence[Row], seeds: Sequence[int], parameters: Parameters
) -> Tensor:
    """Decode rows that have a conditioning, from fresh noise: `[B, 3, 64, 64]` on the CPU."""
    rows = [
        pipeline.latent_row(replace(row.conditioning, x_T=None), seed, parameters)
        for row, seed in zip(sources, seeds, strict=True)
        if row.conditioning is not None
    ]
    pipeline.run(rows)
    return stack_images(rows)


def stack_images(rows: Sequence[Row]) -> Tensor:
    """Return the images of finished rows, `[B, 3, S, S]` on the CPU."""
    return torch.stack([cast(Tensor, row.image) for row in rows]).cpu()


def stack_embeddings(rows: Sequence[Row]) -> Tensor:
    """Return the z_i of rows that have one, `[B, D]`."""
    return torch.stack(
        [
            row.conditioning.z_i
            for row in rows
            if row.conditioning is not None and row.conditioning.z_i is not None
        ]
    )


@torch.inference_mode()
def embed(pipeline: UnCLIP, images: Tensor) -> Tensor:
    """Return z_i `[B, D]` of images `[B, 3, S, S]`, on the CPU."""
    return torch.cat(
        [pipeline.clip.encode_image(part.to(pipeline.device)).cpu() for part in images.split(64)]
    )


@torch.inference_mode()
def embed_text(pipeline: UnCLIP, captions: Sequence[str]) -> Tensor:
    """Return z_t `[B, D]` of captions, on the CPU."""
    return pipeline.clip.encode_text(pipeline.clip.tokenize(list(captions))[0]).z_t.cpu()


@dataclass(frozen=True)
class EvaluationSet:
    """Held-out captions, their test scenes, and the seeds of their images."""

    scenes: list[Scene]
    captions: list[Caption]
    seeds: list[int]

    @property
    def texts(self) -> list[str]:
        return [caption.text for caption in self.captions]

    def render(self) -> Tensor:
        """Render the scenes themselves `[B, 3, 64, 64]`: the upper limit of every score."""
        return render_scenes(self.scenes)


def build_evaluation_set(types: Sequence[str], count: int, mix: str = "whole") -> EvaluationSet:
    """Return `count` captions of each type, in this order.

    The k-th caption of each type has the seed k, whatever `count` is."""
    all_types = CAPTION_TYPES | DETAIL_TYPES
    pairs = [
        pair for name in types for pair in islice(draw_test_captions(all_types[name], mix), count)
    ]
    return EvaluationSet(
        [scene for scene, _ in pairs],
        [caption for _, caption in pairs],
        [k for _ in types for k in range(count)],
    )


def render_scenes(scenes: Sequence[Scene]) -> Tensor:
    """Render scenes at 64², `[B, 3, 64, 64]`."""
    return torch.cat(
        [render(scenes[start : start + BATCH], 64) for start in range(0, len(scenes), BATCH)]
    )


@cache
def embed_references(
    pipeline: UnCLIP, types: tuple[str, ...], count: int, mix: str = "whole"
) -> Tensor:
    """Return z_i of renderings of other test scenes, `count` of each type.

    Distances of image sets are measured to these."""
    scenes = [scene for name in types for scene in islice(_reference_scenes(name, mix), count)]
    parts = (scenes[start : start + 256] for start in range(0, len(scenes), 256))
    return torch.cat([embed(pipeline, render_scenes(part)) for part in parts])


def _reference_scenes(name: str, mix: str) -> Iterator[Scene]:
    index = REFERENCE_START
    while True:
        scene = draw_scene(index, MIXES[mix], CAPTION_TYPES[name].split)
        index += 2
        if scene.kind == CAPTION_TYPES[name].kind:
            yield scene


def find_scenes(colour: str, shape: str, count: int, mix: str = "whole") -> list[Scene]:
    """Return test scenes in photo style of one object with this colour and shape."""
    scenes = list[Scene]()
    index = REFERENCE_START
    while len(scenes) < count:
        scene = draw_scene(index, MIXES[mix], "test")
        index += 2
        is_photo = scene.kind == "one" and scene.style == "photo"
        if is_photo and (scene.objects[0].colour, scene.objects[0].shape) == (colour, shape):
            scenes.append(scene)
    return scenes


def sample_plain_captions(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Return different (colour, shape) of `count` captions such as "a red cube"."""
    pairs = [(colour, shape) for colour in COLOUR_NAMES for shape in SHAPES]
    return random.Random(seed).sample(pairs, count)
