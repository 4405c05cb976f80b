"""An image encoder of EfficientNet-Lite's shape (timm's), with a head into CLIP's space."""

from __future__ import annotations

from dataclasses import dataclass

import timm
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class ImageTowerConfig:
    """Sizes of the image encoder."""

    embed_dim: int
    architecture: str = "tf_efficientnet_lite0"
    image_size: int = 160
    hidden: int = 1024  # width of the head's hidden layer


class ImageTower(nn.Module):
    """Map images to embeddings: a convolutional trunk, mean over positions, a head of two
    layers."""

    def __init__(self, config: ImageTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = timm.create_model(config.architecture, pretrained=False, num_classes=0)
        width = int(self.trunk.num_features)  # type: ignore[arg-type]
        self.head = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.embed_dim),
        )

    def features(self, images: Tensor) -> Tensor:
        """Return pooled features `[B, W]` of images `[B, 3, h, w]` in [-1, 1], resized to
        `image_size`."""
        size = self.config.image_size
        if images.shape[-2:] != (size, size):
            images = F.interpolate(images, (size, size), mode="bicubic", antialias=True)
        features: Tensor = self.trunk(images.clamp(-1, 1))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings `[B, D]`, not normalized."""
        embedding: Tensor = self.head(self.features(images))
        return embedding
