"""The autoregressive prior's training: cross entropy of buckets given a caption (paper §2.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.networks.clip import CLIP
from models.networks.priors.autoregressive import AutoregressivePrior
from models.networks.priors.pca import PCA
from training.data.sources import Source
from training.losses.captions import drop_captions, encode_captions_frozen
from training.losses.diffusion import DROP_TEXT_PRIOR
from training.trainer.step import Loss, Step


@torch.no_grad()
def fit_buckets(
    prior: AutoregressivePrior, pca: PCA, clip: CLIP, source: Source, count: int = 2048
) -> None:
    """Set the components' scales and the dot product's bounds from `count` training images."""
    prior.scales.copy_(pca.variances.sqrt())
    parts = [
        (clip.encode_image(images), encode_captions_frozen(clip, captions).z_t)
        for images, captions in source.first_batches(count, clip.mean.device)
    ]
    z_i = torch.cat([z_i for z_i, _ in parts])
    z_t = torch.cat([z_t for _, z_t in parts])
    dots = (z_t * z_i).sum(1)
    prior.dot_bounds.copy_(torch.stack((dots.quantile(0.001), dots.quantile(0.999))))


def ar_prior_loss(prior: AutoregressivePrior, pca: PCA, clip: CLIP, source: Source) -> Loss:
    """Return the mean cross entropy over the buckets of the dot product and of the components.

    The caption is dropped 10 % of the time."""

    def loss(step: Step) -> Tensor:
        images, captions = source.pairs(step)
        dropped = drop_captions(clip, captions, DROP_TEXT_PRIOR, step)
        text = encode_captions_frozen(clip, dropped)
        # The dot product is with the caption's own z_t even if the caption is dropped. Guidance
        # gives both halves the bucket drawn for the caption, and "" is so far from every image that
        # its own bucket would always be the lowest.
        z_t = encode_captions_frozen(clip, captions).z_t
        with torch.no_grad():
            z_i = clip.encode_image(images)
            buckets = prior.quantize(pca.project(z_i), (z_t * z_i).sum(1))
        logits = prior(text, buckets[:, :-1]).flatten(0, 1)
        return F.cross_entropy(logits, buckets.flatten())

    return loss
