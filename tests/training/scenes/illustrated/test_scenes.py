"""Illustrated scenes: pure functions of an index, true captions, and the compositional split."""

from __future__ import annotations

import random

import pytest
import torch

from tests.training.scenes.illustrated.fake_art import make_world
from training.scenes.illustrated.captions import draw_caption, plain_caption
from training.scenes.illustrated.compose import recolour, render, render_alpha
from training.scenes.illustrated.grounds import draw_ground
from training.scenes.illustrated.layout import place
from training.scenes.illustrated.scene import KINDS, Part, Scene, draw_scene, held_out_combinations
from training.scenes.illustrated.synonyms import plural, with_article
from training.scenes.illustrated.world import COLOURS

WORLD = make_world()


@pytest.mark.parametrize("kind", KINDS)
def test_a_scene_is_a_function_of_its_index(kind):
    assert draw_scene(WORLD, 7, "full", kind) == draw_scene(WORLD, 7, "full", kind)


@pytest.mark.parametrize("kind", KINDS)
def test_training_scenes_show_no_held_out_combination(kind):
    scenes = [draw_scene(WORLD, index, "full", kind) for index in range(30)]
    assert not any(held_out_combinations(WORLD, scene) for scene in scenes)


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        ("style", "one"),
        ("colour", "coloured"),
        ("worn", "worn"),
        ("relation", "relation"),
        ("count", "count"),
    ],
)
def test_held_out_scenes_show_exactly_one(rule, kind):
    scene = draw_scene(WORLD, 3, "full", kind, held_out=rule)
    assert held_out_combinations(WORLD, scene) == {rule}


def test_an_image_is_a_function_of_its_scene():
    scenes = [draw_scene(WORLD, index, "full", kind) for index, kind in enumerate(KINDS)]
    assert torch.equal(render(WORLD, scenes, 32), render(WORLD, scenes, 32))


def test_a_batch_renders_as_its_rows_do():
    scenes = [draw_scene(WORLD, index, "full") for index in range(4)]
    alone = torch.cat([render(WORLD, [scene], 32) for scene in scenes])
    torch.testing.assert_close(render(WORLD, scenes, 32), alone)


def test_white_ground_stays_white():
    scene = Scene(1, "one", 0, (Part(0),))
    image = render(WORLD, [scene], 32)[0]
    assert torch.all(image[:, 0, 0] == 1)


def test_alpha_covers_the_thing_and_not_the_corner():
    alpha = render_alpha(WORLD, [Scene(1, "one", 0, (Part(0),))], 32)[0, 0]
    assert alpha[16, 16] == 1
    assert alpha[0, 0] == 0


@pytest.mark.parametrize("colour", COLOURS)
def test_recolouring_keeps_black_and_white(colour):
    sprites = torch.ones(1, 4, 4, 4)
    sprites[0, :3, 0] = 0.0
    sprites[0, :3, 1] = 0.5
    target = torch.tensor([COLOURS[colour]]) / 255
    coloured = recolour(sprites, target)
    assert coloured[0, :3, 0].max() == 0
    torch.testing.assert_close(coloured[0, :3, 3], torch.ones(3, 4))


def test_a_ground_is_the_same_at_every_size():
    large = draw_ground("grass", "day", 5, 64)
    small = draw_ground("grass", "day", 5, 32)
    pooled = torch.nn.functional.avg_pool2d(large, 2)
    assert (pooled - small).abs().mean() < 0.05


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_as_many_things_as_counted(count):
    assert len(place(WORLD, Scene(1, "count", 0, (Part(0),), count=count))) == count


def test_a_relation_places_the_first_thing():
    left, right = place(WORLD, Scene(1, "relation", 0, (Part(0), Part(1)), relation="left of"))
    assert left.x < right.x


def test_plain_captions_hold_every_claim():
    scene = Scene(1, "relation", 1, (Part(0, "blue"), Part(4)), relation="above", ground="yellow")
    caption = plain_caption(WORLD, scene)
    for word in ("blue", "cat", "above", "pizza", "flat", "yellow"):
        assert word in caption


def test_an_unmentioned_ground_is_white():
    scenes = [draw_scene(WORLD, index, "full", "one") for index in range(60)]
    for scene in scenes:
        caption = draw_caption(WORLD, scene, random.Random(scene.index)).lower()
        if scene.time is None and scene.ground is not None:
            assert scene.ground in caption


@pytest.mark.parametrize(
    ("noun", "many"),
    [
        ("dog", "dogs"),
        ("mouse", "mice"),
        ("cherry", "cherries"),
        ("glass of milk", "glasses of milk"),
        ("fox", "foxes"),
        ("jeans", "jeans"),
    ],
)
def test_plurals(noun, many):
    assert plural(noun) == many


@pytest.mark.parametrize(
    ("noun", "phrase"),
    [("dog", "a dog"), ("octopus", "an octopus"), ("unicorn", "a unicorn"), ("socks", "socks")],
)
def test_articles(noun, phrase):
    assert with_article(noun) == phrase
