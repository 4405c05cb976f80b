"""The upsamplers, 64 -> 256 and 256 -> 1024 (paper §2.1): ADM U-Nets without attention or guidance.

The small image, resized, is concatenated to the noisy one; there is no prompt. All layers are
convolutions, so a network trained on crops of a quarter of the size applies to the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.dtypes import to_float32
from models.networks.unet import UNet, UNetConfig


@dataclass(frozen=True)
class UpsamplerConfig:
    """Sizes of an upsampler, its noise schedule and what it predicts.

    `unet` has UNetConfig's fields, with in_channels 6 (noisy and small image) and out_channels 3.
    """

    unet: dict[str, Any]
    schedule: str = "cosine"
    prediction_type: str = "sample"
    own_last_step: bool = False  # the last step, at t = 0, has a separate U-Net


# Runs one U-Net: whether it is the last step's, x_t, t and low_res -> prediction.
RunUNet = Callable[[bool, Tensor, Tensor, Tensor], Tensor]


class Upsampler(nn.Module):
    """Predicts x_0, epsilon or v (its prediction_type) from a noisy large image and a small one."""

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = UNet(UNetConfig.from_json(config.unet))
        if config.own_last_step:
            self.unet_last = UNet(self.unet.config)

    def forward(
        self, x_t: Tensor, t: Tensor, low_res: Tensor, run_unet: RunUNet | None = None
    ) -> Tensor:
        """Predict `[B, 3, S, S]` from x_t `[B, 3, S, S]`, t `[B]` and low_res `[B, 3, s, s]`.

        low_res is in [-1, 1]. Inputs and the prediction are in fp32 whatever the weights' dtype. If
        the last step has a separate U-Net, a t in host memory saves a wait for the device.
        `run_unet` runs each pass; the default is `predict`."""
        run_unet = run_unet or self.predict
        is_last = (t == 0).tolist() if self.config.own_last_step else [False]
        if all(is_last) or not any(is_last):
            return run_unet(all(is_last), x_t, t, low_res)
        prediction = torch.empty_like(x_t)
        for last in (False, True):
            rows = [row for row, value in enumerate(is_last) if value == last]
            prediction[rows] = run_unet(last, x_t[rows], t[rows], low_res[rows]).to(x_t.dtype)
        return prediction

    def predict(self, last: bool, x_t: Tensor, t: Tensor, low_res: Tensor) -> Tensor:
        """Predict as `forward` by one U-Net: the last step's, or the other."""
        resized = F.interpolate(
            low_res, x_t.shape[-2:], mode="bicubic", antialias=True, align_corners=False
        )
        x = torch.cat((x_t, resized), dim=1).to(self.unet.conv_in.weight.dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        return to_float32((self.unet_last if last else self.unet)(x, t.to(x.device)))
