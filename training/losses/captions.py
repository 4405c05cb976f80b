"""Captions and images through the frozen CLIP, as the denoising losses need them."""

from __future__ import annotations

import torch
from torch import Tensor

from models.networks.clip import CLIP, TextEncoding
from training.data.sources import Captions, Source
from training.trainer.step import Step


def drop_captions(clip: CLIP, captions: Captions, probability: float, step: Step) -> Captions:
    """Replace some of this process' captions by "", for classifier-free guidance."""
    is_dropped = step.uniform() < probability
    if isinstance(captions, Tensor):
        empty = clip.tokenize([""])[0][:, : captions.shape[1]].to(captions)
        return torch.where(is_dropped[:, None], empty, captions)
    return ["" if drop else text for text, drop in zip(captions, is_dropped.tolist(), strict=True)]


def encode_captions(clip: CLIP, captions: Captions) -> TextEncoding:
    """Encode captions. Tokens keep their padding, so that all batches have one shape."""
    if isinstance(captions, Tensor):
        return clip.encode_text(captions, shortened=False)
    return clip.encode_text(clip.tokenize(captions)[0])


@torch.no_grad()
def encode_captions_frozen(clip: CLIP, captions: Captions) -> TextEncoding:
    """Encode captions without gradients."""
    return encode_captions(clip, captions)


@torch.no_grad()
def embed_source(clip: CLIP, source: Source, count: int = 4096) -> Tensor:
    """Return z_i `[N, D]` of a source's first `count` images."""
    batches = source.first_batches(count, clip.mean.device)
    return torch.cat([clip.encode_image(images) for images, _ in batches])
