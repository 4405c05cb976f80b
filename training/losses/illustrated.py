"""Losses of the prior and the decoder on a pool of illustrated scenes."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.networks.clip import TextEncoding
from models.networks.decoder import Decoder
from models.networks.priors.diffusion import DiffusionPrior
from models.networks.two_tower_clip import TwoTowerCLIP
from training.data.illustrated.mixed_pool import MixedPool
from training.data.illustrated.pseudo_photographs import PseudoPhotographs
from training.losses.diffusion import Denoising
from training.trainer.step import Loss, Step

DROP_IMAGE = 0.1  # paper §2.1
DROP_TEXT = 0.35
DROP_TEXT_PRIOR = 0.1  # paper §2.2
# z_i is moved off by up to this share of its length for half of the rows: a prior's z_i is never
# exact.
MAX_NOISE = 0.6
# How often the prior is given an image's embedding in the caption's place.
IMAGE_SHARE = 0.25


@dataclass(frozen=True)
class IllustratedBatch:
    """Rows of one step."""

    indices: Tensor  # [B] of the pool
    captions: list[str]
    z_i: Tensor  # [B, D]


@torch.no_grad()
def draw_batch(pool: MixedPool, clip: TwoTowerCLIP, step: Step) -> IllustratedBatch:
    """Return scenes of a step with fresh captions and their embeddings."""
    indices = step.local(pool.draw(step.batch, step.generator))
    rng = random.Random(int(torch.randint(1 << 40, (), generator=step.generator)) + step.rank)
    z_i = embed_features(clip, pool.features(indices).to(step.device))
    return IllustratedBatch(indices, pool.captions(indices, rng), z_i)


def embed_features(clip: TwoTowerCLIP, features: Tensor) -> Tensor:
    """Return z_i `[B, D]`, of unit norm, of the image tower's features."""
    return F.normalize(clip.image.head(features).float(), dim=-1)


@torch.no_grad()
def encode(clip: TwoTowerCLIP, captions: list[str], dropped: Tensor) -> TextEncoding:
    """Return the captions' encodings, those of `dropped` rows as of an empty caption."""
    texts = [
        "" if is_dropped else caption
        for caption, is_dropped in zip(captions, dropped.tolist(), strict=True)
    ]
    encoding = clip.encode_text(clip.tokenize(texts)[0])
    return TextEncoding(encoding.z_t, encoding.hidden.float(), encoding.mask)


def blur_embedding(z_i: Tensor, step: Step) -> Tensor:
    """Return embeddings `[B, D]` of unit norm, half of them moved off in a random direction."""
    amount = (step.uniform(1) * 2 - 1).clamp(min=0) * MAX_NOISE
    return F.normalize(z_i + amount * step.normal(z_i.shape[1]) / z_i.shape[1] ** 0.5, dim=-1)


def illustrated_decoder_loss(decoder: Decoder, clip: TwoTowerCLIP, pool: MixedPool) -> Loss:
    """Return the loss of the decoder, which learns images from their z_i and a caption, each
    dropped for guidance (paper §2.1)."""
    denoising = Denoising(decoder.config.schedule, decoder.config.prediction_type)

    def loss(step: Step) -> Tensor:
        batch = draw_batch(pool, clip, step)
        x_0 = pool.images(batch.indices).to(step.device)
        text = encode(clip, batch.captions, step.uniform() < DROP_TEXT)
        drop_image = step.uniform() < DROP_IMAGE
        x_t, t, eps = denoising.add_noise(x_0, step)
        x_t = x_t.contiguous(memory_format=torch.channels_last)
        return denoising.loss(
            decoder(x_t, t, blur_embedding(batch.z_i, step), text, drop_image), x_0, eps, t
        )

    return loss


def illustrated_prior_loss(
    prior: DiffusionPrior,
    clip: TwoTowerCLIP,
    pool: MixedPool,
    photographs: PseudoPhotographs,
    class_scenes: dict[int, list[int]],
) -> Loss:
    """Return the loss of the prior, which learns z_i of art from a caption, or from the embedding
    of an image.

    That image is the scene itself, or a pseudo-photograph of a class that has scenes:
    `class_scenes` maps ImageNet's
    classes to the pool's scenes of the thing at or above them."""
    denoising = Denoising(prior.config.schedule, prior.config.prediction_type, weighted=False)
    classes = list(class_scenes)

    def loss(step: Step) -> Tensor:
        batch = draw_batch(pool, clip, step)
        z_i = batch.z_i.clone()
        kind = step.uniform()
        is_image = kind < IMAGE_SHARE
        text = encode(clip, batch.captions, is_image | (step.uniform() < DROP_TEXT_PRIOR))
        z_t = torch.where(is_image[:, None], blur_embedding(z_i, step), text.z_t)
        is_photograph = kind < IMAGE_SHARE / 2
        rows = is_photograph.nonzero()[:, 0]
        rng = random.Random(int(torch.randint(1 << 40, (), generator=step.generator)) + step.rank)
        if len(rows) and classes:
            chosen = [rng.choice(classes) for _ in rows]
            with torch.no_grad():
                features = photographs.draw(torch.tensor(chosen), step.generator).to(step.device)
                z_t[rows] = embed_features(clip, features)
                scenes = torch.tensor([rng.choice(class_scenes[one]) for one in chosen])
                z_i[rows] = embed_features(clip, pool.features(scenes).to(step.device))
        x_0 = prior.normalize(z_i)
        x_t, t, eps = denoising.add_noise(x_0, step)
        return denoising.loss(prior(x_t, t, TextEncoding(z_t, text.hidden, text.mask)), x_0, eps, t)

    return loss
