"""CLIP (Radford et al. 2021) of two pretrained towers: a MiniLM-shaped text encoder and an
EfficientNet-Lite image encoder.

Has the interface of `models.networks.clip.CLIP`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.clip import TextEncoding
from models.networks.dtypes import to_float32
from models.networks.image_tower import ImageTower, ImageTowerConfig
from models.networks.text_tower import PAD_ID, TextTower, TextTowerConfig
from models.networks.wordpiece import END, START, WordPieceTokenizer

MAX_LOGIT_SCALE = 100.0


class TwoTowerCLIP(nn.Module):
    """The two encoders. `config`: {"embed_dim", "text_tower", "image_tower", "vocabulary"}: the
    towers' own fields, and the
    tokenizer's pieces."""

    mean: Tensor

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        vocabulary: list[str] = config["vocabulary"]
        self.embed_dim: int = config["embed_dim"]
        text = TextTowerConfig(vocab_size=len(vocabulary), **config["text_tower"])
        if text.width != self.embed_dim:
            raise ValueError(
                f"the text tower's width is {text.width}, and embed_dim {self.embed_dim}: "
                "they must be equal"
            )
        self.text = TextTower(text)
        self.image = ImageTower(ImageTowerConfig(embed_dim=self.embed_dim, **config["image_tower"]))
        self.text_width = text.width
        self.context_length = text.context_length
        self.image_size = self.image.config.image_size
        self.has_image_encoder = True
        self.unit_norm = True
        self.tokenizer = WordPieceTokenizer(vocabulary, text.context_length)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.register_buffer("mean", torch.zeros(1), persistent=False)

    @property
    def similarity_scale(self) -> Tensor:
        """Return what cosines are multiplied by before a softmax, at most 100."""
        return self.logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, list[str | None]]:
        """Return token ids `[B, context]`, zero after the end token, and for each prompt the text
        that did not fit."""
        ids = self.tokenizer.ids
        tokens = torch.full((len(prompts), self.context_length), PAD_ID, dtype=torch.long)
        cut: list[str | None] = []
        for row, prompt in zip(tokens, prompts, strict=True):
            pieces = self.tokenizer.encode(prompt)
            room = self.context_length - 2
            rest = pieces[room:]
            row[: min(len(pieces), room) + 2] = torch.tensor([ids[START], *pieces[:room], ids[END]])
            cut.append(self.tokenizer.decode(rest).strip() if rest else None)
        return tokens, cut

    def encode_text(self, tokens: Tensor, *, shortened: bool = True) -> TextEncoding:
        """Return z_t, hidden states and mask of token ids `[B, context]`.

        `shortened` leaves padding out of the computation, which the mask makes exact."""
        if shortened:
            tokens = tokens[:, : int((tokens != PAD_ID).sum(1).max())]
        hidden, mask = self.text.hidden_states(tokens.to(self.mean.device))
        z_t = F.normalize(to_float32(self.text.embed(hidden, mask)), dim=-1)
        return TextEncoding(z_t, hidden, mask)

    def encode_image(self, images: Tensor) -> Tensor:
        """Return z_i `[B, D]`, of unit norm, of images `[B, 3, h, w]` in [-1, 1]."""
        return F.normalize(to_float32(self.image(images.to(self.text.positions.dtype))), dim=-1)
