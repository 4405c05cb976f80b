"""Losses of the illustrated world on tiny networks and a pool of a few scenes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.networks.decoder import Decoder, DecoderConfig
from models.networks.matting import MattingConfig, MattingNetwork
from models.networks.priors.diffusion import DiffusionPrior, DiffusionPriorConfig
from models.networks.two_tower_clip import TwoTowerCLIP
from tests.training.scenes.illustrated.fake_art import make_world
from training.data.illustrated.mixed_pool import MixedPool
from training.data.illustrated.pseudo_photographs import PseudoPhotographs
from training.data.illustrated.scene_pool import PoolArrays, ScenePool
from training.evaluation.judge import Judge, read
from training.losses.illustrated import illustrated_decoder_loss, illustrated_prior_loss
from training.losses.judge import pool_judge_loss
from training.losses.matting import matting_loss
from training.scenes.illustrated.compose import render
from training.scenes.illustrated.scene import draw_scene
from training.trainer.step import Step

WORLD = make_world()
COUNT = 12
WIDTH = 32
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]


def make_step(number: int = 0, batch: int = 4) -> Step:
    return Step(number, batch, torch.device("cpu"), torch.Generator().manual_seed(number))


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    towers = {
        "text_tower": {"width": WIDTH, "layers": 1, "heads": 2, "hidden": 16},
        "image_tower": {"image_size": 32, "hidden": 16},
    }
    return (
        TwoTowerCLIP({"embed_dim": WIDTH, "vocabulary": PIECES} | towers)
        .eval()
        .requires_grad_(False)
    )


@pytest.fixture(scope="module")
def pool():
    images = render(WORLD, [draw_scene(WORLD, index, "full") for index in range(COUNT)], 64)
    pixels = ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    features = np.random.default_rng(0).random((COUNT, 1280)).astype(np.float16)
    return ScenePool(WORLD, "full", PoolArrays([pixels], [features], [features]))


@pytest.fixture(scope="module")
def mixed(pool):
    return MixedPool([pool], [1.0])


def test_the_decoder_learns_from_the_pool(clip, mixed):
    torch.manual_seed(0)
    unet = {
        "in_channels": 3,
        "out_channels": 3,
        "channels": [16, 16],
        "blocks": 1,
        "attention": [False, True],
        "time_embed_dim": 32,
        "patch_size": 8,
        "head_channels": 8,
        "norm_groups": 8,
        "context_dim": 16,
    }
    decoder = Decoder(DecoderConfig(unet, embed_dim=WIDTH, text_width=WIDTH))
    loss = illustrated_decoder_loss(decoder, clip, mixed)
    optimizer = torch.optim.Adam(decoder.parameters(), 3e-3)
    values = []
    for _ in range(12):
        value = loss(make_step())
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(value.item())
    assert values[-1] < 0.8 * values[0]


def test_the_prior_takes_captions_images_and_photographs(clip, mixed):
    torch.manual_seed(0)
    prior = DiffusionPrior(
        DiffusionPriorConfig(embed_dim=WIDTH, text_width=WIDTH, width=32, layers=1, heads=2)
    )
    photographs = PseudoPhotographs(torch.zeros(1280), torch.ones(1280), torch.eye(3, 1280))
    loss = illustrated_prior_loss(prior, clip, mixed, photographs, {0: [1, 2], 2: [3]})
    value = loss(make_step(batch=32))
    value.backward()
    assert value.isfinite()
    assert all(
        parameter.grad is not None for name, parameter in prior.named_parameters() if "text" in name
    )


def test_the_same_step_gives_the_same_loss(clip, mixed):
    torch.manual_seed(0)
    prior = DiffusionPrior(
        DiffusionPriorConfig(embed_dim=WIDTH, text_width=WIDTH, width=32, layers=1, heads=2)
    )
    photographs = PseudoPhotographs(torch.zeros(1280), torch.ones(1280), torch.eye(3, 1280))
    loss = illustrated_prior_loss(prior, clip, mixed, photographs, {0: [1]})
    assert loss(make_step(3)).item() == loss(make_step(3)).item()


def test_the_judge_learns_what_scenes_show(pool):
    torch.manual_seed(0)
    judge = Judge(len(WORLD.names), len(WORLD.atlas.sets), width=64)
    loss = pool_judge_loss(judge, [pool])
    optimizer = torch.optim.Adam(judge.parameters(), 3e-3)
    for number in range(60):
        value = loss(make_step(number, 12))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
    scenes = [pool.scene(index) for index in range(COUNT)]
    answers = read(judge, WORLD, pool.arrays.feature_batch(torch.arange(COUNT)), scenes)
    assert answers["style"].float().mean() > 0.9
    assert answers["five"].float().mean() > 0.9


def test_matting_learns_alpha():
    torch.manual_seed(0)
    network = MattingNetwork(MattingConfig(channels=(8, 8), patch_size=4, norm_groups=4))
    images = np.zeros((4, 32, 32, 4), np.uint8)
    images[:, :, :, :3] = 255
    images[:, 8:24, 8:24] = (200, 30, 30, 255)
    loss = matting_loss(network, images)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    values = []
    for number in range(30):
        value = loss(make_step(number))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(value.item())
    assert values[-1] < 0.5 * values[0]


def test_a_mixed_pool_keeps_the_order_of_its_indices(pool):
    second = ScenePool(WORLD, "full", pool.arrays)
    mixed = MixedPool([pool, second], [0.5, 0.5])
    indices = torch.tensor([COUNT + 3, 2, COUNT + 1, 2])
    expected = pool.arrays.image_batch(torch.tensor([3, 2, 1, 2]))
    assert torch.equal(mixed.images(indices), expected)
    sample = mixed.draw(200, torch.Generator().manual_seed(0))
    assert 50 < int((sample >= COUNT).sum()) < 150
    assert int(sample.max()) < 2 * COUNT
