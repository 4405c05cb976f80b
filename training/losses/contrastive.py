"""CLIP's training: open_clip's own model and loss."""

from __future__ import annotations

import math

import torch
from open_clip.loss import ClipLoss
from torch import Tensor

from models.networks.clip import CLIP
from training.data.sources import Source
from training.losses.captions import encode_captions
from training.trainer.step import Loss, Step

MAX_LOGIT_SCALE = 100.0  # the paper's bound on the temperature


def clip_loss(clip: CLIP, source: Source) -> Loss:
    """Return the contrastive loss over a step's images and captions, those of all processes.

    Consecutive synthetic scenes are near twins, so their batches have hard negatives."""

    def loss(step: Step) -> Tensor:
        images, captions = source.pairs(step)
        z_i = clip.encode_image(images)
        z_t = encode_captions(clip, captions).z_t
        scale = clip.network.logit_scale.clamp(max=math.log(MAX_LOGIT_SCALE)).exp()
        contrast = ClipLoss(gather_with_grad=True, rank=step.rank, world_size=step.world_size)
        # Logits are up to 100, and their differences small: too much for bf16.
        with torch.autocast(step.device.type, enabled=False):
            value: Tensor = contrast(z_i, z_t, scale)
        return value

    return loss
