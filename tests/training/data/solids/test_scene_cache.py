"""Cached scenes are the rendered ones."""

from __future__ import annotations

from pathlib import Path

import torch

from training.data.solids.scene_cache import cached_scenes, split_range
from training.data.solids.scene_source import SceneSource
from training.trainer.step import Step

CPU = torch.device("cpu")


def test_a_cache_has_the_images_of_its_scenes(tmp_path: Path) -> None:
    """The file appears under its final name only, and holds the images rounded to bytes."""
    cache = cached_scenes(tmp_path, 6, "objects", processes=1)
    assert [path.name for path in tmp_path.iterdir()] == ["objects-train-6.npy"]
    cached = SceneSource("objects", cache)
    rendered = SceneSource("objects")
    indices = list(range(6))
    scenes = cached.draw_scenes(indices)
    difference = cached.load_images(indices, scenes, CPU) - rendered.load_images(
        indices, scenes, CPU
    )
    assert difference.abs().max() <= 1 / 127.5


def test_batches_of_a_cache_are_twins(tmp_path: Path) -> None:
    """A step has shuffled pairs of consecutive indices."""
    source = SceneSource("objects", cached_scenes(tmp_path, 8, "objects", processes=1))
    indices = source.draw_indices(Step(0, 6, CPU, torch.Generator().manual_seed(0)))
    assert len(indices) == 6
    assert all(even + 1 == odd for even, odd in zip(indices[::2], indices[1::2], strict=True))


def test_ranges_cover_everything_once() -> None:
    """The last part is shorter."""
    assert split_range(5, 2) == [range(2), range(2, 4), range(4, 5)]
