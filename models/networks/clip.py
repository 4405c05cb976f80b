"""CLIP (Radford et al. 2021), through open_clip: captions and images into one space.

Gives what the rest of the pipeline conditions on: the text embedding z_t, the text encoder's hidden states, and the
image embedding z_i. Any architecture that open_clip knows will do; the checkpoint's config names one or spells it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP as OpenClip
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

# open_clip builds no CLIP without an image encoder: the smallest, to be thrown away.
_PLACEHOLDER = {"layers": 1, "width": 64, "patch_size": 32, "image_size": 32}


@dataclass(frozen=True)
class TextEncoding:
    """Encoded captions: z_t `[B, D]` in fp32 (unit norm, unless the config keeps CLIP's own scale), the final hidden states
    `[B, L, W]` in the encoder's dtype, and a mask `[B, L]`, True where there is a token. L is the longest caption's length."""

    z_t: Tensor
    hidden: Tensor
    mask: Tensor


def widened(x: Tensor) -> Tensor:
    """In fp32 where a network of half precision has made it: what is computed with between networks is not to be rounded again."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class CLIP(nn.Module):
    """The two encoders. `config`: {"architecture": a name open_clip knows} or open_clip's own
    {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"?}, where a vision_cfg of None leaves the image encoder out. Either may
    add "image_mean" and "image_std" (OpenAI's else), and "unit_norm": false keeps z_t and z_i as they are projected."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        config = dict(config)
        mean = config.pop("image_mean", open_clip.OPENAI_DATASET_MEAN)
        std = config.pop("image_std", open_clip.OPENAI_DATASET_STD)
        self.unit_norm: bool = config.pop("unit_norm", True)
        name = config.pop("architecture", None)
        if name is not None:
            known = open_clip.get_model_config(name)
            if known is None:
                raise ValueError(
                    f"unknown CLIP architecture {name!r}: open_clip.list_models() lists those there are"
                )
            config = known | config
        self.network = OpenClip(**config | {"vision_cfg": config["vision_cfg"] or _PLACEHOLDER})
        self.tokenizer = SimpleTokenizer(context_length=self.network.context_length)
        self.embed_dim: int = config["embed_dim"]
        self.text_width: int = config["text_cfg"]["width"]
        size = self.network.visual.image_size
        self.image_size: int = size if isinstance(size, int) else size[0]
        self.has_image_encoder = config["vision_cfg"] is not None
        if not self.has_image_encoder:
            del self.network.visual
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @property
    def similarity_scale(self) -> Tensor:
        """Return what cosines are multiplied by before a softmax, at most 100 (Radford et al. 2021, §2.5)."""
        scale: Tensor = self.network.logit_scale.exp().clamp(max=100)
        return scale

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, list[str | None]]:
        """Captions -> token ids `[B, context]`, zero after the end token, and for each the text that did not fit."""
        context = self.network.context_length
        tokens = torch.zeros(len(prompts), context, dtype=torch.long)
        cut: list[str | None] = []
        for row, prompt in zip(tokens, prompts, strict=True):
            ids = self.tokenizer.encode(prompt)
            kept = ids[: context - 2]
            rest = ids[context - 2 :]
            row[: len(kept) + 2] = torch.tensor(
                [self.tokenizer.sot_token_id, *kept, self.tokenizer.eot_token_id]
            )
            cut.append(self.tokenizer.decode(rest).strip() if rest else None)
        return tokens, cut

    def encode_text(self, tokens: Tensor, *, shortened: bool = True) -> TextEncoding:
        """Token ids `[B, context]` -> z_t, hidden states and mask. Padding is left out of the computation, which the
        causal mask makes exact; `shortened` False keeps it, for one who wants every batch of the same length."""
        end = tokens.argmax(1)  # the end token has the largest id
        length = int(end.max()) + 1 if shortened else tokens.shape[1]
        tokens = tokens[:, :length].to(self.mean.device)
        end = end.to(self.mean.device)
        network = self.network
        x = network.token_embedding(tokens) + network.positional_embedding[:length]
        x = network.transformer(x, attn_mask=network.attn_mask[:length, :length])
        hidden = network.ln_final(x)  # (B, L, W)
        z_t = hidden[torch.arange(len(end), device=end.device), end]
        if isinstance(network.text_projection, nn.Linear):
            z_t = network.text_projection(z_t)
        elif network.text_projection is not None:
            z_t = z_t @ network.text_projection
        z_t = widened(z_t)
        mask = torch.arange(length, device=end.device)[None] <= end[:, None]
        return TextEncoding(F.normalize(z_t, dim=-1) if self.unit_norm else z_t, hidden, mask)

    def encode_image(self, images: Tensor) -> Tensor:
        """Images `[B, 3, h, w]` in [-1, 1] -> z_i `[B, D]`, scaled as z_t. ValueError where there is no image encoder."""
        if not self.has_image_encoder:
            raise ValueError(
                "this checkpoint has no image encoder: use one that has, or give a prompt instead of an image"
            )
        if images.shape[-2:] != (self.image_size, self.image_size):
            images = F.interpolate(
                images, (self.image_size, self.image_size), mode="bicubic", antialias=True
            )
        images = (images.clamp(-1, 1) * 0.5 + 0.5 - self.mean) / self.std
        z_i = widened(self.network.encode_image(images.to(self.network.positional_embedding.dtype)))
        return F.normalize(z_i, dim=-1) if self.unit_norm else z_i
