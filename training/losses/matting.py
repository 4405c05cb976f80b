"""Training of the matting network on renders whose alpha is known."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.networks.matting import MattingNetwork
from training.trainer.step import Loss, Step


def matting_loss(network: MattingNetwork, images: NDArray[np.uint8]) -> Loss:
    """Return the loss on images `[N, S, S, 4]` with alpha: L1, and L1 of its gradients, so that
    edges are sharp.

    Images are blurred and made noisy at random, as upsamplers' images are."""

    def loss(step: Step) -> Tensor:
        indices = torch.randint(len(images), (step.batch,), generator=step.generator)
        batch = torch.from_numpy(images[indices.numpy()]).permute(0, 3, 1, 2).float() / 255
        batch = torch.where(step.uniform(1, 1, 1) < 0.5, batch.flip(3), batch)
        image, alpha = batch[:, :3] * 2 - 1, batch[:, 3:]
        blurred = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        image = torch.where(step.uniform(1, 1, 1) < 0.4, blurred, image)
        image = image + 0.03 * step.uniform(1, 1, 1) * step.normal(*image.shape[1:])
        error = network(image.clamp(-1, 1)).float() - alpha
        edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        total: Tensor = error.abs().mean() + edges
        return total

    return loss
