"""The decoder at 64² (paper §2.1): from an image embedding, and its caption, to an image.

The projected z_i is added to the timestep embedding and gives four extra context tokens before the caption's, all
of which the U-Net attends to. For classifier-free guidance z_i is dropped to a learned embedding, the caption to "".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from models.networks.clip import TextEncoding, widened
from models.networks.unet import Keys, UNet, UNetConfig


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
    unit_norm: bool = True  # z_i has unit norm, and is scaled to unit variance a dimension; else it is taken as it is
    image_to_time_layers: int = 2
    text_to_time: bool = False  # z_t, too, is projected and added to the timestep embedding
    norm_last: bool = False  # LayerNorm on the caption's context tokens, not on the hidden states they are made of


@dataclass(frozen=True)
class Given:
    """What a row's z_i and caption come to: `[E]`, added to the timestep embedding, and the context tokens' keys and values `[K, C]` in
    each attention, without padding."""

    emb: Tensor
    keys: list[Keys]


@dataclass(frozen=True)
class Batch:
    """Several rows' `Given`: `[B, E]`, `[B, K, C]` in each attention, and a mask `[B, K]`, None where no row is padded."""

    emb: Tensor
    keys: list[Keys]
    mask: Tensor | None


def batched(rows: Sequence[Given], least: int = 0) -> Batch:
    """Rows side by side, those shorter than the longest, or than `least`, padded."""
    emb = torch.stack([row.emb for row in rows])
    lengths = [len(row.keys[0][0]) if row.keys else 0 for row in rows]
    more = max(0, least - max(lengths))

    def together(one: Sequence[Tensor]) -> Tensor:
        return F.pad(pad_sequence(list(one), batch_first=True), (0, 0, 0, more))

    keys = [
        (together([k for k, _ in one]), together([v for _, v in one]))
        for one in zip(*(row.keys for row in rows), strict=True)
    ]
    if not keys or min(lengths) == max(lengths) + more:
        return Batch(emb, keys, None)
    places = torch.arange(max(lengths) + more, device=emb.device)
    return Batch(emb, keys, torch.stack([places < length for length in lengths]))


class Decoder(nn.Module):
    """z_i, caption and a noisy image -> what the checkpoint's prediction_type says."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = UNet(UNetConfig(**_tuples(config.unet)))
        self.variance_channels = self.unet.config.out_channels - 3
        time_dim = self.unet.config.time_embed_dim
        context_dim = self.unet.config.context_dim
        self.null_image = nn.Parameter(torch.zeros(config.embed_dim))  # stands for a dropped z_i
        deeper = [
            layer
            for _ in range(config.image_to_time_layers - 1)
            for layer in (nn.SiLU(), nn.Linear(time_dim, time_dim))
        ]
        self.image_to_time = nn.Sequential(nn.Linear(config.embed_dim, time_dim), *deeper)
        if config.text_to_time:
            self.text_to_time = nn.Linear(config.embed_dim, time_dim)
        self.image_to_tokens = nn.Linear(config.embed_dim, config.image_tokens * context_dim)
        self.text_norm = nn.LayerNorm(context_dim if config.norm_last else config.text_width)
        self.text_to_tokens = nn.Linear(config.text_width, context_dim)

    def forward(
        self, x_t: Tensor, t: Tensor, z_i: Tensor, text: TextEncoding, drop_image: Tensor
    ) -> Tensor:
        """In fp32 whatever the weights' dtype: x_t `[B, 3, 64, 64]`, t `[B]`, z_i `[B, D]`, drop_image `[B]` True where z_i is
        withheld -> prediction `[B, 3, 64, 64]`; `[B, 6, 64, 64]` where the U-Net has 6 output channels: the last three say where the
        log-variance of a DDPM step lies between its bounds, -1 the smaller and 1 the larger (Nichol & Dhariwal 2021, eq. 15)."""
        dtype = self.null_image.dtype
        return widened(self.unet(x_t.to(dtype), t, *self._conditions(z_i, text, drop_image)))

    def begin(self, z_i: Tensor, text: TextEncoding, drop_image: Tensor) -> list[Given]:
        """What `forward` makes of each row's z_i and caption, for `proceed`: the same at every step."""
        emb, context, mask = self._conditions(z_i, text, drop_image)
        keys = self.unet.keys_of(context)
        return [
            Given(emb[row], [(k[row, : int(length)], v[row, : int(length)]) for k, v in keys])
            for row, length in enumerate(mask.sum(1).tolist())
        ]

    def proceed(self, x_t: Tensor, t: Tensor, given: Batch) -> Tensor:
        """As `forward`, with what `begin` and `batched` gave."""
        return widened(
            self.unet.proceed(x_t.to(self.null_image.dtype), t, given.emb, given.keys, given.mask)
        )

    def _conditions(
        self, z_i: Tensor, text: TextEncoding, drop_image: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What is added to the timestep embedding `[B, E]`, context tokens `[B, 4 + L, C]` and their mask."""
        dtype = self.null_image.dtype
        z_i = (z_i * z_i.shape[1] ** 0.5 if self.config.unit_norm else z_i).to(dtype)
        z_i = torch.where(drop_image[:, None], self.null_image, z_i)
        image_tokens = self.image_to_tokens(z_i).unflatten(
            1, (self.config.image_tokens, -1)
        )  # (B, 4, C)
        if self.config.norm_last:
            text_tokens = self.text_norm(self.text_to_tokens(text.hidden))
        else:
            text_tokens = self.text_to_tokens(self.text_norm(text.hidden))
        context = torch.cat((image_tokens, text_tokens), dim=1)  # (B, 4 + L, C)
        mask = torch.cat(
            (text.mask.new_ones(len(text.mask), self.config.image_tokens), text.mask), dim=1
        )
        emb = self.image_to_time(z_i)
        if self.config.text_to_time:
            emb = emb + self.text_to_time(text.z_t.to(dtype))
        return emb, context, mask


def _tuples(numbers: dict[str, Any]) -> dict[str, Any]:
    """JSON has no tuples."""
    return {
        key: tuple(value) if isinstance(value, list) else value for key, value in numbers.items()
    }
