"""The autoregressive prior's training: cross-entropy of buckets, given a caption (paper §2.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.ar_prior import AutoregressivePrior
from models.clip import CLIP
from models.pca import PCA
from training.data import World, captions
from training.diffusion import DROP_TEXT_PRIOR, dropped, embedded, encoded
from training.loop import Loss, Step, step_generator


@torch.no_grad()
def fit_buckets(prior: AutoregressivePrior, pca: PCA, clip: CLIP, world: World, count: int = 2048) -> None:
    """Set the components' scales and the bounds of the dot product from training pictures and captions."""
    prior.scales.copy_(pca.variances.sqrt())
    z_i = embedded(clip, world, count)
    step = Step(0, len(z_i), z_i.device, step_generator(0, 0))
    z_t = encoded(clip, captions(world.scenes(list(range(len(z_i)))), step)).z_t
    dots = (z_t * z_i).sum(1)
    prior.dot_bounds.copy_(torch.stack((dots.quantile(0.001), dots.quantile(0.999))))


def ar_prior_loss(prior: AutoregressivePrior, pca: PCA, clip: CLIP, world: World) -> Loss:
    """Mean cross-entropy over the dot product's bucket and the components'; the caption is dropped 10 % of the time."""

    def loss(step: Step) -> Tensor:
        indices = world.indices(step)
        scenes = world.scenes(indices)
        said = captions(scenes, step)
        text = encoded(clip, dropped(said, DROP_TEXT_PRIOR, step))
        # The dot product is with the caption's own z_t also where the caption is dropped: guidance gives both halves the bucket
        # that was drawn for the caption, and "" is so far from every picture that its own would always be the lowest.
        z_t = encoded(clip, said).z_t
        with torch.no_grad():
            z_i = clip.encode_image(world.images(indices, scenes, step.device))
            buckets = prior.quantize(pca.project(z_i), (z_t * z_i).sum(1))
        return F.cross_entropy(prior(text, buckets[:, :-1]).flatten(0, 1), buckets.flatten())

    return loss
