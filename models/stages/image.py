"""The image stage: CLIP encodes the source image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch

from models.networks.clip import CLIP
from models.row import Conditioning, Row, SourceImage
from models.stages.base import Role, Runtime, Stage


class ImageStage(Stage):
    """Sets z_i of the conditioning; both texts are the negative prompt's."""

    name = "image"
    role = Role.IMAGE
    network = "clip"
    cost = 0.2

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.clip = cast(CLIP, runtime.networks[self.network])

    def step(self, rows: Sequence[Row]) -> list[Row]:
        size = self.clip.image_size
        z_i = self.clip.encode_image(
            torch.stack([source_of(row).resize(size).image for row in rows])
        )
        tokens, _ = self.clip.tokenize([row.parameters.negative_prompt for row in rows])
        encoding = self.clip.encode_text(tokens)
        for k, row in enumerate(rows):
            text = encoding.row(k)
            row.conditioning = Conditioning(text, text, z_i[k])
        return list(rows)


def source_of(row: Row) -> SourceImage:
    """Return the source image of a row; raises RuntimeError without one."""
    if row.source is None:
        raise RuntimeError(f"a row in stage {row.stage!r} has no source image")
    return row.source
