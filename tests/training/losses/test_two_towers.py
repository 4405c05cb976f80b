"""Training of the joint space: both encoders, then the image head alone, on tiny networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.networks.two_tower_clip import TwoTowerCLIP
from tests.training.scenes.illustrated.fake_art import make_world
from training.data.illustrated.pseudo_photographs import PseudoPhotographs
from training.data.illustrated.scene_pool import PoolArrays, ScenePool
from training.data.illustrated.word_pairs import build_word_pairs
from training.losses.image_head import gather_head_data, image_head_loss
from training.losses.two_towers import TwoTowerData, find_twins, two_tower_loss
from training.trainer.step import Step

WORLD = make_world()
COUNT = 300
WIDTH = 32
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
CLASS_NAMES = [["lion", "king of beasts"], ["bear"], ["stool"]]


def make_clip():
    torch.manual_seed(0)
    towers = {
        "text_tower": {"width": WIDTH, "layers": 1, "heads": 2, "hidden": 16},
        "image_tower": {"image_size": 32, "hidden": 16},
    }
    clip = TwoTowerCLIP({"embed_dim": WIDTH, "vocabulary": PIECES} | towers)
    clip.image.trunk.requires_grad_(False)
    return clip


@pytest.fixture(scope="module")
def pool():
    """Return scenes whose features tell their names apart."""
    empty = ScenePool(WORLD, "full", PoolArrays([], [], []))
    features = np.zeros((COUNT, 1280), np.float16)
    for index in range(COUNT):
        scene = empty.scene(index)
        for part in scene.parts:
            features[index, part.name] = 3
        features[index, 200 + scene.art_set] = 3
    images = np.zeros((COUNT, 64, 64, 3), np.uint8)
    return ScenePool(WORLD, "full", PoolArrays([images], [features], [features]))


@pytest.fixture(scope="module")
def photographs():
    return PseudoPhotographs(torch.zeros(1280), torch.ones(1280), torch.eye(3, 1280))


def make_step(number: int, batch: int = 1) -> Step:
    return Step(number, batch, torch.device("cpu"), torch.Generator().manual_seed(number))


def train(loss, parameters, steps: int, batch: int = 1) -> list[float]:
    optimizer = torch.optim.Adam(parameters, 3e-3)
    values = []
    for number in range(steps):
        value = loss(make_step(number, batch))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(value.item())
    return values


def test_both_towers_learn(pool, photographs):
    clip = make_clip()
    words = build_word_pairs(WORLD, {"tabby": WORLD.index("cat face")})
    groups = [words.groups[WORLD.index("lion")], words.groups[WORLD.index("bear")], -1]
    data = TwoTowerData(pool, words, photographs, CLASS_NAMES, groups, find_twins(pool))
    data.twin_pairs = 6
    data.scenes = 10
    data.texts = 8
    data.photograph_count = 3
    parameters = [parameter for parameter in clip.parameters() if parameter.requires_grad]
    values = train(two_tower_loss(clip, data), parameters, 20)
    assert sum(values[-4:]) < 0.95 * sum(values[:4])


def test_twins_show_one_name_each(pool):
    for name, scenes in find_twins(pool).items():
        assert len(scenes) > 1
        assert {pool.scene(index).parts[0].name for index in scenes} == {name}


def test_the_image_head_learns_alone(pool, photographs):
    clip = make_clip().requires_grad_(False)
    clip.image.head.requires_grad_(True)
    text = clip.text.token_embedding.weight.clone()
    words = build_word_pairs(WORLD, {})
    data = gather_head_data(clip, [pool], words.groups, CLASS_NAMES, [0, 1, -1])
    loss = image_head_loss(clip, data, photographs, photograph_count=4)
    values = train(loss, clip.image.head.parameters(), 20, batch=16)
    assert sum(values[-4:]) < 0.95 * sum(values[:4])
    assert torch.equal(clip.text.token_embedding.weight, text)
