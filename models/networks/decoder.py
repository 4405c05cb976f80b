"""The decoder at 64² (paper §2.1): from an image embedding, and its prompt, to an image.

The projected z_i is added to the timestep embedding, and gives four extra context tokens before the
prompt's, to all of which the U-Net attends. For classifier-free guidance z_i is replaced by a
learned embedding, and the prompt by "".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from models.networks.clip import TextEncoding
from models.networks.dtypes import to_float32
from models.networks.unet import KeysValues, UNet, UNetConfig


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of the decoder, its noise schedule and what it predicts.

    `unet` has UNetConfig's fields; its context_dim is the width of the context tokens."""

    unet: dict[str, Any]
    embed_dim: int  # of z_i
    text_width: int  # of the text encoder's hidden states
    image_tokens: int = 4
    image_size: int = 64
    schedule: str = "cosine"
    prediction_type: str = "sample"
    # z_i has unit norm and is scaled to unit variance per dimension; otherwise it stays unchanged.
    unit_norm: bool = True
    image_to_time_layers: int = 2
    # z_t, too, is projected and added to the timestep embedding.
    text_to_time: bool = False
    # LayerNorm on the prompt's context tokens, not on the hidden states they are projected from.
    norm_last: bool = False


@dataclass(frozen=True)
class EncodedConditioning:
    """One row's z_i and prompt as the U-Net uses them at every step.

    `emb` `[E]` is added to the timestep embedding. `context` has the context tokens' keys and
    values `[K, C]` in each attention, without padding."""

    emb: Tensor
    context: list[KeysValues]


@dataclass(frozen=True)
class BatchedConditioning:
    """Several rows' `EncodedConditioning`: emb `[B, E]`, and `[B, K, C]` in each attention.

    The mask `[B, K]` is None if no row is padded."""

    emb: Tensor
    context: list[KeysValues]
    mask: Tensor | None


def stack_conditioning(
    rows: Sequence[EncodedConditioning], min_length: int = 0
) -> BatchedConditioning:
    """Stack rows, and pad the shorter ones to the longest, which is at least `min_length`."""
    emb = torch.stack([row.emb for row in rows])
    lengths = [len(row.context[0][0]) if row.context else 0 for row in rows]
    extra = max(0, min_length - max(lengths))

    def pad_and_join(parts: Sequence[Tensor]) -> Tensor:
        return F.pad(pad_sequence(list(parts), batch_first=True), (0, 0, 0, extra))

    context = [
        (pad_and_join([k for k, _ in layer]), pad_and_join([v for _, v in layer]))
        for layer in zip(*(row.context for row in rows), strict=True)
    ]
    if not context or min(lengths) == max(lengths) + extra:
        return BatchedConditioning(emb, context, None)
    places = torch.arange(max(lengths) + extra, device=emb.device)
    mask = torch.stack([places < length for length in lengths])
    return BatchedConditioning(emb, context, mask)


class Decoder(nn.Module):
    """Predicts x_0, epsilon or v (its prediction_type) from z_i, the prompt and a noisy image."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = UNet(UNetConfig.from_json(config.unet))
        self.variance_channels = self.unet.config.out_channels - 3
        time_dim = self.unet.config.time_embed_dim
        context_dim = self.unet.config.context_dim
        # Replaces z_i in the unconditional half.
        self.null_image = nn.Parameter(torch.zeros(config.embed_dim))
        # Created before the first layer: the order decides which random numbers initialise which.
        deeper: list[nn.Module] = []
        for _ in range(config.image_to_time_layers - 1):
            deeper += [nn.SiLU(), nn.Linear(time_dim, time_dim)]
        self.image_to_time = nn.Sequential(nn.Linear(config.embed_dim, time_dim), *deeper)
        if config.text_to_time:
            self.text_to_time = nn.Linear(config.embed_dim, time_dim)
        self.image_to_tokens = nn.Linear(config.embed_dim, config.image_tokens * context_dim)
        self.text_norm = nn.LayerNorm(context_dim if config.norm_last else config.text_width)
        self.text_to_tokens = nn.Linear(config.text_width, context_dim)

    def forward(
        self, x_t: Tensor, t: Tensor, z_i: Tensor, text: TextEncoding, drop_image: Tensor
    ) -> Tensor:
        """Predict `[B, 3, 64, 64]` from x_t `[B, 3, 64, 64]`, t `[B]` and z_i `[B, D]`.

        drop_image `[B]` is True where z_i is replaced. Inputs and the prediction are in fp32
        whatever the weights' dtype. A U-Net of 6 output channels predicts `[B, 6, 64, 64]`: the
        last three place the log-variance of a DDPM step between its bounds, from -1 (the smaller)
        to 1 (the larger; Nichol & Dhariwal 2021, eq. 15)."""
        dtype = self.null_image.dtype
        return to_float32(self.unet(x_t.to(dtype), t, *self._conditions(z_i, text, drop_image)))

    def encode_conditioning(
        self, z_i: Tensor, text: TextEncoding, drop_image: Tensor
    ) -> list[EncodedConditioning]:
        """Encode each row's z_i and prompt for `denoise`; the result serves every step."""
        emb, tokens, mask = self._conditions(z_i, text, drop_image)
        context = self.unet.encode_context(tokens)
        return [
            EncodedConditioning(emb[row], [(k[row, :length], v[row, :length]) for k, v in context])
            for row, length in enumerate(map(int, mask.sum(1).tolist()))
        ]

    def denoise(self, x_t: Tensor, t: Tensor, conditioning: BatchedConditioning) -> Tensor:
        """Predict as `forward`, from the conditioning of `stack_conditioning`."""
        x_t = x_t.to(self.null_image.dtype)
        return to_float32(
            self.unet.forward_encoded(
                x_t, t, conditioning.emb, conditioning.context, conditioning.mask
            )
        )

    def _conditions(
        self, z_i: Tensor, text: TextEncoding, drop_image: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the addition to the timestep embedding `[B, E]`, and the context tokens.

        The tokens are `[B, 4 + L, C]`, and their mask `[B, 4 + L]`."""
        dtype = self.null_image.dtype
        z_i = (z_i * z_i.shape[1] ** 0.5 if self.config.unit_norm else z_i).to(dtype)
        z_i = torch.where(drop_image[:, None], self.null_image, z_i)
        # (B, 4, C)
        image_tokens = self.image_to_tokens(z_i).unflatten(1, (self.config.image_tokens, -1))
        if self.config.norm_last:
            text_tokens = self.text_norm(self.text_to_tokens(text.hidden))
        else:
            text_tokens = self.text_to_tokens(self.text_norm(text.hidden))
        tokens = torch.cat((image_tokens, text_tokens), dim=1)  # (B, 4 + L, C)
        image_mask = text.mask.new_ones(len(text.mask), self.config.image_tokens)
        mask = torch.cat((image_mask, text.mask), dim=1)
        emb = self.image_to_time(z_i)
        if self.config.text_to_time:
            emb = emb + self.text_to_time(text.z_t.to(dtype))
        return emb, tokens, mask
