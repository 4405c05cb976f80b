"""Sprites rendered from their vectors at the size needed, so that edges are true."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.scenes.illustrated.art.art_sets import ART_SETS, Render, find_sprites
from training.scenes.illustrated.art.atlas import Atlas
from training.scenes.illustrated.art.packages import archive_name
from training.scenes.illustrated.world import World

CACHED_SPRITES = 64


@dataclass(frozen=True)
class VectorAtlas(Atlas):
    """An atlas whose rows are rendered on demand at `size`; `sprites` is only its base atlas'
    array."""

    size: int = 256
    renders: dict[int, Render] = field(default_factory=dict)  # row -> renderer

    def premultiplied(self, rows: NDArray[np.int64] | Tensor) -> Tensor:
        """Return sprites `[B, 4, size, size]` in [0, 1], their colours premultiplied by alpha."""
        return torch.stack([self._sprite(int(row)) for row in rows])

    def _sprite(self, row: int) -> Tensor:
        return _render(self.renders[row], self.size)


@lru_cache(maxsize=CACHED_SPRITES)
def _render(render: Render, size: int) -> Tensor:
    sprite = torch.from_numpy(render(size)).permute(2, 0, 1).float() / 255
    return torch.cat((sprite[:3] * sprite[3:], sprite[3:]))


def at_size(world: World, folder: Path, size: int, vectors_only: bool = False) -> World:
    """Return the world with sprites rendered at `size` pixels.

    `vectors_only` leaves out sets that come as bitmaps, whose edges are soft above their own
    size."""
    atlas = world.atlas
    renders: dict[int, Render] = {}
    table = atlas.table.copy()
    for column, key in enumerate(atlas.sets):
        art_set = next(one for one in ART_SETS if one.key == key)
        if vectors_only and not art_set.is_vector:
            table[:, column] = -1
            continue
        sprites = find_sprites(art_set, folder / archive_name(art_set.package), atlas.names)
        for name, row in zip(atlas.names, atlas.table[:, column].tolist(), strict=True):
            if row >= 0 and name.code in sprites:
                renders[row] = sprites[name.code]
    vector_atlas = VectorAtlas(atlas.names, atlas.sets, table, atlas.sprites, size, renders)
    return replace(world, atlas=vector_atlas)
