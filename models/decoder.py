"""The decoder at 64² (paper §2.1): from an image embedding, and its caption, to a picture.

The projected z_i is added to the timestep embedding and gives four extra context tokens before the caption's, all
of which the U-Net attends to. For classifier-free guidance z_i is dropped to a learned embedding, the caption to "".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.clip import TextEncoding
from models.unet import UNet, UNetConfig


@dataclass(frozen=True)
class DecoderConfig:
    """`unet`: UNetConfig's fields; its context_dim is the width of the context tokens."""

    unet: dict[str, Any]
    embed_dim: int  # of z_i
    text_width: int  # of the text encoder's hidden states
    image_tokens: int = 4
    image_size: int = 64
    schedule: str = "cosine"
    prediction_type: str = "sample"


class Decoder(nn.Module):
    """z_i, caption and a noisy picture -> what the checkpoint's prediction_type says."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = UNet(UNetConfig(**_tuples(config.unet)))
        time_dim, context_dim = self.unet.config.time_embed_dim, self.unet.config.context_dim
        self.null_image = nn.Parameter(torch.zeros(config.embed_dim))  # stands for a dropped z_i
        self.image_to_time = nn.Sequential(nn.Linear(config.embed_dim, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim))
        self.image_to_tokens = nn.Linear(config.embed_dim, config.image_tokens * context_dim)
        self.text_norm = nn.LayerNorm(config.text_width)
        self.text_to_tokens = nn.Linear(config.text_width, context_dim)

    def forward(self, x_t: Tensor, t: Tensor, z_i: Tensor, text: TextEncoding, drop_image: Tensor) -> Tensor:
        """x_t `[B, 3, 64, 64]`, t `[B]`, z_i `[B, D]` (unit norm), drop_image `[B]` True where z_i is withheld
        -> prediction `[B, 3, 64, 64]`."""
        z_i = torch.where(drop_image[:, None], self.null_image, z_i * z_i.shape[1] ** 0.5)
        image_tokens = self.image_to_tokens(z_i).unflatten(1, (self.config.image_tokens, -1))  # (B, 4, C)
        context = torch.cat((image_tokens, self.text_to_tokens(self.text_norm(text.hidden))), dim=1)  # (B, 4 + L, C)
        mask = torch.cat((text.mask.new_ones(len(text.mask), self.config.image_tokens), text.mask), dim=1)
        prediction: Tensor = self.unet(x_t, t, self.image_to_time(z_i), context, mask)
        return prediction


def _tuples(numbers: dict[str, Any]) -> dict[str, Any]:
    """JSON has no tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in numbers.items()}
