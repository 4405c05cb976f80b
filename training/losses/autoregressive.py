"""The autoregressive prior's training: cross-entropy of buckets, given a caption (paper §2.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.networks.ar_prior import AutoregressivePrior
from models.networks.clip import CLIP
from models.networks.pca import PCA
from training.data.sources import Captions, Source
from training.losses.diffusion import DROP_TEXT_PRIOR, dropped, encoded
from training.trainer.trainer import Loss, Step


@torch.no_grad()
def fit_buckets(
    prior: AutoregressivePrior, pca: PCA, clip: CLIP, source: Source, count: int = 2048
) -> None:
    """Set the components' scales and the bounds of the dot product from training images and captions."""
    prior.scales.copy_(pca.variances.sqrt())
    parts: list[tuple[Tensor, Captions]] = [
        (clip.encode_image(images), said) for images, said in source.first(count, clip.mean.device)
    ]
    z_t = torch.cat([encoded(clip, said).z_t for _, said in parts])
    dots = (z_t * torch.cat([z_i for z_i, _ in parts])).sum(1)
    prior.dot_bounds.copy_(torch.stack((dots.quantile(0.001), dots.quantile(0.999))))


def ar_prior_loss(prior: AutoregressivePrior, pca: PCA, clip: CLIP, source: Source) -> Loss:
    """Mean cross-entropy over the dot product's bucket and the components'; the caption is dropped 10 % of the time."""

    def loss(step: Step) -> Tensor:
        images, said = source.pairs(step)
        text = encoded(clip, dropped(clip, said, DROP_TEXT_PRIOR, step))
        # The dot product is with the caption's own z_t also where the caption is dropped: guidance gives both halves the bucket
        # that was drawn for the caption, and "" is so far from every image that its own would always be the lowest.
        z_t = encoded(clip, said).z_t
        with torch.no_grad():
            z_i = clip.encode_image(images)
            buckets = prior.quantize(pca.project(z_i), (z_t * z_i).sum(1))
        return F.cross_entropy(prior(text, buckets[:, :-1]).flatten(0, 1), buckets.flatten())

    return loss
