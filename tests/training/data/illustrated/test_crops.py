"""Crops, mattes and the atlas' travel, with a tiny art set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.scenes.illustrated.fake_art import make_world, write_art
from training.data.illustrated import scene_crops
from training.data.illustrated.scene_crops import (
    SceneCrops,
    build_crops,
    build_mattes,
    is_shown,
    load_crops,
)
from training.data.illustrated.travel import pack_art, unpack_art
from training.errors import TrainingError
from training.scenes.illustrated.art.atlas import load_atlas
from training.scenes.illustrated.scene import Part, Scene
from training.trainer.step import Step

WORLD = make_world()


@pytest.fixture
def same_sprites(monkeypatch):
    """Render from the tiny atlas in place of vectors, which a test has none of."""
    monkeypatch.setattr(scene_crops, "at_size", lambda world, art, size, **_: world)


def make_step(number: int, batch: int) -> Step:
    return Step(number, batch, torch.device("cpu"), torch.Generator().manual_seed(number))


def test_crops_are_cached_and_degraded(tmp_path, same_sprites):
    path = tmp_path / "crops.npy"
    build_crops(path, WORLD, tmp_path, 256, 6, per_scene=2)
    before = path.stat().st_mtime_ns
    build_crops(path, WORLD, tmp_path, 256, 6, per_scene=2)
    assert path.stat().st_mtime_ns == before
    large, small = load_crops(path, 256).pairs(make_step(0, 4))
    assert large.shape == (4, 3, 128, 128)
    assert small.shape == (4, 3, 32, 32)
    pooled = torch.nn.functional.avg_pool2d(large, 4)
    assert 0 < (pooled - small).abs().mean() < 0.2


def test_crops_of_1024_px_are_degraded_more(tmp_path, same_sprites):
    path = tmp_path / "crops.npy"
    build_crops(path, WORLD, tmp_path, 256, 4, per_scene=1)
    crops = np.load(path)
    _, small = SceneCrops(1024, crops).pairs(make_step(1, 4))
    assert small.shape == (4, 3, 32, 32)
    assert small.abs().max() <= 1


def test_missing_crops_are_an_error(tmp_path):
    with pytest.raises(TrainingError, match="build the crops first"):
        load_crops(tmp_path / "crops.npy", 256)


def test_mattes_have_the_things_alpha(tmp_path, same_sprites):
    path = tmp_path / "mattes.npy"
    build_mattes(path, WORLD, tmp_path, 64, 3)
    mattes = np.load(path)
    assert mattes.shape == (3, 64, 64, 4)
    assert mattes[..., 3].max() == 255
    assert mattes[:, 0, 0, 3].max() == 0


def test_a_scene_of_a_set_without_its_thing_is_not_shown():
    table = WORLD.atlas.table.copy()
    table[0, 1] = -1
    world = replace(WORLD, atlas=replace(WORLD.atlas, table=table))
    assert is_shown(world, Scene(1, "one", 0, (Part(0),)))
    assert not is_shown(world, Scene(1, "one", 1, (Part(0),)))


def test_the_atlas_survives_its_travel(tmp_path):
    write_art(tmp_path / "art", ("noto", "flat"))
    size = pack_art(tmp_path / "art", tmp_path / "packed", ("noto", "flat"))
    assert size < 1 << 20
    unpack_art(tmp_path / "packed", tmp_path / "unpacked", ("noto", "flat"))
    sent = load_atlas(tmp_path / "art", ("noto", "flat"))
    received = load_atlas(tmp_path / "unpacked", ("noto", "flat"))
    opaque = sent.sprites[..., 3] > 0
    assert np.array_equal(sent.sprites[opaque], received.sprites[opaque])
    assert np.array_equal(sent.table, received.table)
