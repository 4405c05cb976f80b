"""The upsamplers, 64 -> 256 and 256 -> 1024 (paper §2.1): ADM U-Nets without attention, guidance or caption.

The small picture, resized, is concatenated to the noisy one. Being convolutions only, a network trained on crops of a
quarter of the size applies to the whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.decoder import _tuples
from models.unet import UNet, UNetConfig


@dataclass(frozen=True)
class UpsamplerConfig:
    """`unet`: UNetConfig's fields, with in_channels 6 (noisy and small picture) and out_channels 3."""

    unet: dict[str, Any]
    schedule: str = "cosine"
    prediction_type: str = "sample"


class Upsampler(nn.Module):
    """A noisy large picture and a small clean one -> what the checkpoint's prediction_type says."""

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = UNet(UNetConfig(**_tuples(config.unet)))

    def forward(self, x_t: Tensor, t: Tensor, low: Tensor) -> Tensor:
        """x_t `[B, 3, S, S]`, t `[B]`, low `[B, 3, s, s]` in [-1, 1] -> prediction `[B, 3, S, S]`."""
        resized = F.interpolate(low, x_t.shape[-2:], mode="bicubic", antialias=True, align_corners=False)
        prediction: Tensor = self.unet(torch.cat((x_t, resized), dim=1), t)
        return prediction
