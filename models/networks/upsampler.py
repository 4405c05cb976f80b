"""The upsamplers, 64 -> 256 and 256 -> 1024 (paper §2.1): ADM U-Nets without attention, guidance or caption.

The small image, resized, is concatenated to the noisy one. Being convolutions only, a network trained on crops of a
quarter of the size applies to the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.clip import widened
from models.networks.decoder import _tuples
from models.networks.unet import UNet, UNetConfig


@dataclass(frozen=True)
class UpsamplerConfig:
    """`unet`: UNetConfig's fields, with in_channels 6 (noisy and small image) and out_channels 3."""

    unet: dict[str, Any]
    schedule: str = "cosine"
    prediction_type: str = "sample"
    own_last_step: bool = False  # the last step, at t = 0, has a U-Net of its own


# A pass of one U-Net: whether it is the last step's, x_t, t and low -> prediction.
Run = Callable[[bool, Tensor, Tensor, Tensor], Tensor]


class Upsampler(nn.Module):
    """A noisy large image and a small clean one -> what the checkpoint's prediction_type says."""

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = UNet(UNetConfig(**_tuples(config.unet)))
        if config.own_last_step:
            self.unet_last = UNet(self.unet.config)

    def forward(self, x_t: Tensor, t: Tensor, low: Tensor, run: Run | None = None) -> Tensor:
        """In fp32 whatever the weights' dtype: x_t `[B, 3, S, S]`, t `[B]`, low `[B, 3, s, s]` in [-1, 1] -> prediction `[B, 3, S, S]`.
        Where the last step has a U-Net of its own, t on the host spares a wait for the device. `run` makes the passes, by `predicted` where
        it is left out."""
        run = run or self.predicted
        last = (t == 0).tolist() if self.config.own_last_step else [False]
        if all(last) or not any(last):
            return run(all(last), x_t, t, low)
        prediction = torch.empty_like(x_t)
        for of_last in (False, True):
            rows = [row for row, found in enumerate(last) if found == of_last]
            prediction[rows] = run(of_last, x_t[rows], t[rows], low[rows]).to(x_t.dtype)
        return prediction

    def predicted(self, last: bool, x_t: Tensor, t: Tensor, low: Tensor) -> Tensor:
        """A pass of one U-Net, that of the last step or the other, as `forward`."""
        resized = F.interpolate(
            low, x_t.shape[-2:], mode="bicubic", antialias=True, align_corners=False
        )
        x = (
            torch.cat((x_t, resized), dim=1)
            .to(self.unet.conv_in.weight.dtype)
            .contiguous(memory_format=torch.channels_last)
        )
        return widened((self.unet_last if last else self.unet)(x, t.to(x.device)))
