"""CLIP's training: open_clip's own model and loss on the drawn world."""

from __future__ import annotations

import math

import torch
from open_clip.loss import ClipLoss
from torch import Tensor

from models.networks.clip import CLIP
from training.data.sources import Source, World, captions
from training.losses.diffusion import encoding
from training.trainer.trainer import Loss, Step


def clip_loss(clip: CLIP, source: Source) -> Loss:
    """The contrastive loss over a step's images and captions, those of all processes together. Of the drawn world consecutive
    scenes are near twins, so the batch holds hard negatives."""

    def loss(step: Step) -> Tensor:
        images, said = source.pairs(step)
        z_i = clip.encode_image(images)
        z_t = encoding(clip, said).z_t
        # The paper's bound on the temperature: logits are scaled by at most 100.
        scale = clip.network.logit_scale.clamp(max=math.log(100)).exp()
        contrast = ClipLoss(gather_with_grad=True, rank=step.rank, world_size=step.ranks)
        with torch.autocast(
            step.device.type, enabled=False
        ):  # logits of up to 100 whose differences are small
            value: Tensor = contrast(z_i, z_t, scale)
        return value

    return loss


@torch.inference_mode()
def retrieval_accuracy(clip: CLIP, world: World, count: int = 512) -> float:
    """How often, among `count` fresh images, a caption's own image is the nearest."""
    step = Step(0, count, clip.mean.device, torch.Generator().manual_seed(1))
    indices = world.indices(step)
    scenes = world.scenes(indices)
    z_i = clip.encode_image(world.images(indices, scenes, step.device))
    z_t = clip.encode_text(clip.tokenize(captions(scenes, step))[0]).z_t
    nearest = (z_t @ z_i.T).argmax(1)
    return float((nearest == torch.arange(count, device=nearest.device)).float().mean())
