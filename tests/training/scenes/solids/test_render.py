"""Renderings show their scenes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from training.scenes.solids.render import render
from training.scenes.solids.scene import COLOURS, SHAPES, Scene, SceneObject


def single_object(shape: str = "sphere", colour: str = "red", **position: float) -> Scene:
    scene_object = SceneObject(shape, colour, "large", "matte", **position)
    return Scene("one", (scene_object,), None, "snow", "day", "photo")


def has_hue(image: Tensor, colour: str) -> Tensor:
    """Return where an image `[3, H, W]` has the hue of a colour: `[H, W]`."""
    hue = torch.nn.functional.normalize(torch.tensor(COLOURS[colour]), dim=0)
    rgb = torch.nn.functional.normalize((image + 1) / 2 + 1e-4, dim=0)
    return (rgb * hue[:, None, None]).sum(0) > 0.96


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", ["red", "blue", "green", "purple"])
def test_an_object_has_its_colour(shape: str, colour: str) -> None:
    """The hue is in the middle of the image, and not at its edges."""
    image = render([single_object(shape, colour)], 64)[0]
    is_object = has_hue(image, colour)
    assert is_object[20:44, 22:42].float().mean() > 0.3
    assert not is_object[:, :12].any()
    assert not is_object[:, 52:].any()


def test_left_is_left_and_above_is_above() -> None:
    """x points to the right of the image, z upwards."""
    columns = torch.arange(64.0)

    def centre(scene: Scene) -> tuple[float, float]:
        weight = has_hue(render([scene], 64)[0], "red").float()
        x = float((weight.sum(0) * columns).sum() / weight.sum())
        y = float((weight.sum(1) * columns).sum() / weight.sum())
        return x, y

    middle = centre(single_object())
    left = centre(single_object(x=-1.2))
    high = centre(single_object(z=1.5))
    assert left[0] < middle[0] - 8
    assert high[1] < middle[1] - 8


def test_the_nearer_object_hides_the_other() -> None:
    """The order of the objects does not matter."""
    front = SceneObject("cube", "red", "large", "matte", y=-2.0)
    behind = SceneObject("cube", "blue", "small", "matte", y=0.2)
    for objects in ((front, behind), (behind, front)):
        image = render([replace(single_object(), objects=objects, kind="pair")], 64)[0]
        assert has_hue(image, "red").sum() > 100
        assert has_hue(image, "blue").sum() < 20


def test_a_crop_is_a_window_of_the_image() -> None:
    """The rays of a window give its pixels, except for antialiasing at its border."""
    whole = render([single_object("cone")], 256)
    window = render([single_object("cone")], 256, crop=64, corners=torch.tensor([[96.0, 80.0]]))
    difference = (whole[:, :, 80:144, 96:160] - window).abs().amax(1)[0, 1:-1, 1:-1]
    assert float((difference < 0.02).float().mean()) > 0.995


def test_sizes_show_the_same_scene() -> None:
    """A large rendering, reduced, is the small one."""
    small = render([single_object("cylinder", "green")], 64)
    large = render([single_object("cylinder", "green")], 256)
    assert float((torch.nn.functional.avg_pool2d(large, 4) - small).abs().mean()) < 0.03


def test_an_image_does_not_depend_on_its_batch() -> None:
    """A scene looks the same alone and in a batch of every style."""
    others = [
        replace(single_object("cube"), style=style) for style in ("pixel art", "pencil sketch")
    ] + [replace(single_object(), word="HELLO", kind="sign")]
    alone = render([single_object("cone", "blue")], 64)
    batched = render([single_object("cone", "blue"), *others], 64)
    assert torch.allclose(alone[0], batched[0], atol=1e-4)


def test_signs_have_letters_and_sketches_are_paper() -> None:
    """Letters are dark on light; a sketch is mostly white."""
    sign = render([Scene("sign", (), None, "grass", "day", "photo", "HELLO")], 64)[0]
    board = sign[:, 10:22, 15:49]
    assert float(board.min()) < -0.4
    assert float(board.max()) > 0.6
    sketch = render([replace(single_object(), style="pencil sketch")], 64)[0]
    assert float((sketch > 0.8).all(0).float().mean()) > 0.6
