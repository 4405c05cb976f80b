"""Scenes are pure functions of their index, and the splits are disjoint."""

from __future__ import annotations

from training.scenes.solids.scene import (
    MIXES,
    TEST_START,
    Scene,
    Split,
    draw_scene,
    is_compositional,
)


def draw_scenes(count: int = 600, split: Split = "train", mix: str = "whole") -> list[Scene]:
    return [draw_scene(index, MIXES[mix], split) for index in range(count)]


def test_the_same_index_gives_the_same_scene() -> None:
    """The order of calls does not matter, and other indices give other scenes."""
    scenes = draw_scenes(50)
    reversed_scenes = [draw_scene(index, MIXES["whole"]) for index in reversed(range(50))]
    assert reversed_scenes == scenes[::-1]
    assert len({str(scene) for scene in scenes[::2]}) == 25


def test_an_odd_index_is_a_near_twin() -> None:
    """It has the same kind, place, time and style, but is another scene."""
    scenes = draw_scenes()
    pairs = list(zip(scenes[::2], scenes[1::2], strict=True))
    same = [
        (a.place, a.time, a.style, a.kind) == (b.place, b.time, b.style, b.kind) for a, b in pairs
    ]
    # A compositional scene is drawn again, without its twin.
    assert sum(same) / len(same) > 0.85
    assert sum(a != b for a, b in pairs) / len(pairs) > 0.95


def test_training_has_no_compositional_scenes() -> None:
    """The compositional split has nothing else."""
    for scene in draw_scenes() + draw_scenes(split="test"):
        assert not scene.relation or not is_compositional(scene.objects[0], scene.relation)
    for scene in draw_scenes(100, "compositional"):
        assert scene.relation
        assert is_compositional(scene.objects[0], scene.relation)


def test_test_scenes_differ_from_those_of_training() -> None:
    """Their indices start far beyond those of training."""
    assert TEST_START > 1 << 32
    assert not set(map(str, draw_scenes(200))) & set(map(str, draw_scenes(200, "test")))
