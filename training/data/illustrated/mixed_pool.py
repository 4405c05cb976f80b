"""Several pools as one: illustrated scenes, and the solids of before."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from models.networks.image_tower import ImageTower
from training.data.illustrated.scene_pool import CANVAS_PX, PoolArrays, build_shards, load_arrays
from training.scenes.solids.captions import draw_caption
from training.scenes.solids.render import render
from training.scenes.solids.scene import MIXES, draw_scene

SOLID_MIX = "whole"


class Pool(Protocol):
    """Rendered scenes with captions."""

    @property
    def arrays(self) -> PoolArrays:
        """Return the images and features."""

    def caption(self, index: int, rng: random.Random) -> str:
        """Return a fresh caption of a scene."""


@dataclass(frozen=True)
class SolidPool:
    """Scenes of solids."""

    arrays: PoolArrays

    def caption(self, index: int, rng: random.Random) -> str:
        return draw_caption(draw_scene(index, MIXES[SOLID_MIX]), rng).text


class MixedPool:
    """Pools in one numbering: the first pool's scenes keep their indices."""

    def __init__(self, pools: Sequence[Pool], shares: Sequence[float]) -> None:
        self.pools = list(pools)
        self.shares = torch.tensor(shares)
        sizes = [len(pool.arrays) for pool in pools]
        self.starts = [sum(sizes[:place]) for place in range(len(sizes))]
        self.sizes = torch.tensor(sizes)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return indices `[count]`, from each pool as often as its share."""
        chosen = torch.multinomial(self.shares, count, replacement=True, generator=generator)
        places = torch.rand(count, generator=generator, dtype=torch.float64) * self.sizes[chosen]
        return places.long() + torch.tensor(self.starts)[chosen]

    def images(self, indices: Tensor) -> Tensor:
        """Return images `[B, 3, 64, 64]` in [-1, 1]."""
        return self._gather(indices, features=False)

    def features(self, indices: Tensor) -> Tensor:
        """Return features `[B, W]`."""
        return self._gather(indices, features=True)

    def captions(self, indices: Tensor, rng: random.Random) -> list[str]:
        """Return fresh captions."""
        places = [self._locate(index) for index in indices.tolist()]
        return [self.pools[pool].caption(index, rng) for pool, index in places]

    def _locate(self, index: int) -> tuple[int, int]:
        pool = bisect_right(self.starts, index) - 1
        return pool, index - self.starts[pool]

    def _gather(self, indices: Tensor, *, features: bool) -> Tensor:
        parts: list[tuple[Tensor, Tensor]] = []
        places = [self._locate(index) for index in indices.tolist()]
        for number, pool in enumerate(self.pools):
            rows = torch.tensor([row for row, place in enumerate(places) if place[0] == number])
            if len(rows):
                own = torch.tensor([places[row][1] for row in rows.tolist()])
                arrays = pool.arrays
                batch = arrays.feature_batch(own) if features else arrays.image_batch(own)
                parts.append((rows, batch))
        whole = torch.cat([batch for _, batch in parts])
        order = torch.cat([rows for rows, _ in parts]).argsort()
        return whole[order.to(whole.device)]


def build_solid_pool(folder: Path, tower: ImageTower, shards: int) -> None:
    """Render shards of solids that are not there yet."""

    def render_range(indices: range) -> Tensor:
        return render([draw_scene(index, MIXES[SOLID_MIX]) for index in indices], CANVAS_PX)

    build_shards(folder, render_range, tower, range(shards))


def load_solid_pool(folder: Path, device: str = "cpu") -> SolidPool:
    """Map the shards of solids."""
    return SolidPool(load_arrays(folder, device))
