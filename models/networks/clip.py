"""CLIP (Radford et al. 2021), through open_clip: text and images in one space.

It computes what the rest of the pipeline conditions on: the text embedding z_t, the text encoder's
hidden states, and the image embedding z_i. The checkpoint's config names one of open_clip's
architectures or spells one out.
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

from models.networks.dtypes import to_float32

# open_clip requires an image encoder: the smallest, which is deleted at once.
_PLACEHOLDER = {"layers": 1, "width": 64, "patch_size": 32, "image_size": 32}


@dataclass(frozen=True)
class TextEncoding:
    """Encoded texts, L tokens long at most.

    z_t is `[B, D]` in fp32, of unit norm unless the config keeps CLIP's scale. `hidden` `[B, L, W]`
    has the final hidden states in the encoder's dtype. The mask `[B, L]` is True at tokens."""

    z_t: Tensor
    hidden: Tensor
    mask: Tensor

    def row(self, index: int) -> TextEncoding:
        """Return one text's encoding as a batch of one."""
        one = slice(index, index + 1)
        return TextEncoding(self.z_t[one], self.hidden[one], self.mask[one])

    @classmethod
    def concatenate(cls, texts: Sequence[TextEncoding]) -> TextEncoding:
        """Concatenate encodings into one batch, padded to the longest."""
        length = max(text.mask.shape[1] for text in texts)
        hidden = [F.pad(text.hidden, (0, 0, 0, length - text.hidden.shape[1])) for text in texts]
        masks = [F.pad(text.mask, (0, length - text.mask.shape[1])) for text in texts]
        return cls(torch.cat([text.z_t for text in texts]), torch.cat(hidden), torch.cat(masks))


class CLIP(nn.Module):
    """The text encoder and the image encoder.

    The config is either {"architecture": a name that open_clip knows} or open_clip's fields
    {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"?}, in which a vision_cfg of None leaves the
    image encoder out. Either may add "image_mean" and "image_std" (default: OpenAI's), and
    "unit_norm": false leaves z_t and z_i as they are projected. Raises ValueError for an unknown
    architecture."""

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
            fields = open_clip.get_model_config(name)
            if fields is None:
                raise ValueError(
                    f"unknown CLIP architecture {name!r}: use one of open_clip.list_models()"
                )
            config = fields | config
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
        """The factor that turns cosines into logits, at most 100 (Radford et al. 2021, §2.5)."""
        scale: Tensor = self.network.logit_scale.exp().clamp(max=100)
        return scale

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, list[str | None]]:
        """Return token ids `[B, context]`, and for each prompt the text that did not fit.

        Ids are zero after the end token. The second item is None for a prompt that fits."""
        context = self.network.context_length
        tokens = torch.zeros(len(prompts), context, dtype=torch.long)
        truncated: list[str | None] = []
        for row, prompt in zip(tokens, prompts, strict=True):
            ids = self.tokenizer.encode(prompt)
            first = ids[: context - 2]
            rest = ids[context - 2 :]
            row[: len(first) + 2] = torch.tensor(
                [self.tokenizer.sot_token_id, *first, self.tokenizer.eot_token_id]
            )
            truncated.append(self.tokenizer.decode(rest).strip() if rest else None)
        return tokens, truncated

    def encode_text(self, tokens: Tensor, *, shortened: bool = True) -> TextEncoding:
        """Encode token ids `[B, context]`.

        Padding after the longest text is left out of the computation, which the causal mask makes
        exact. `shortened=False` keeps it, so that every batch has the same length."""
        # The end token has the largest id.
        end = tokens.argmax(1)
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
        z_t = to_float32(z_t)
        mask = torch.arange(length, device=end.device)[None] <= end[:, None]
        return TextEncoding(F.normalize(z_t, dim=-1) if self.unit_norm else z_t, hidden, mask)

    def encode_image(self, images: Tensor) -> Tensor:
        """Return z_i `[B, D]`, scaled as z_t, of images `[B, 3, h, w]` in [-1, 1].

        Raises ValueError without an image encoder."""
        if not self.has_image_encoder:
            raise ValueError(
                "this checkpoint has no image encoder: load one that has, or use a prompt"
            )
        if images.shape[-2:] != (self.image_size, self.image_size):
            images = F.interpolate(
                images, (self.image_size, self.image_size), mode="bicubic", antialias=True
            )
        images = (images.clamp(-1, 1) * 0.5 + 0.5 - self.mean) / self.std
        z_i = to_float32(
            self.network.encode_image(images.to(self.network.positional_embedding.dtype))
        )
        return F.normalize(z_i, dim=-1) if self.unit_norm else z_i
