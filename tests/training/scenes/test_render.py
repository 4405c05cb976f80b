"""Drawings show what the scene says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from training.scenes.solids.render import render
from training.scenes.solids.scene import COLOURS, SHAPES, Scene, Thing


def one(shape: str = "sphere", colour: str = "red", **where: float) -> Scene:
    return Scene(
        "one", (Thing(shape, colour, "large", "matte", **where),), None, "snow", "day", "photo"
    )


def covered(image: Tensor, colour: str) -> Tensor:
    """Where an image `[3, H, W]` has the hue of a colour: `[H, W]`."""
    wanted = torch.nn.functional.normalize(torch.tensor(COLOURS[colour]), dim=0)
    rgb = torch.nn.functional.normalize((image + 1) / 2 + 1e-4, dim=0)
    return (rgb * wanted[:, None, None]).sum(0) > 0.96


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", ["red", "blue", "green", "purple"])
def test_a_thing_is_seen_in_its_colour(shape: str, colour: str) -> None:
    """In the middle, and nowhere else."""
    image = render([one(shape, colour)], 64)[0]
    seen = covered(image, colour)
    assert seen[20:44, 22:42].float().mean() > 0.3
    assert not seen[:, :12].any()
    assert not seen[:, 52:].any()


def test_left_is_left_and_above_is_above() -> None:
    """x grows to the right of the image, z upwards."""
    columns = torch.arange(64.0)

    def centre(scene: Scene) -> tuple[float, float]:
        seen = covered(render([scene], 64)[0], "red").float()
        return float((seen.sum(0) * columns).sum() / seen.sum()), float(
            (seen.sum(1) * columns).sum() / seen.sum()
        )

    middle = centre(one())
    left = centre(one(x=-1.2))
    high = centre(one(z=1.5))
    assert left[0] < middle[0] - 8
    assert high[1] < middle[1] - 8


def test_what_is_in_front_hides_what_is_behind() -> None:
    """Depth is sorted, not painted in order."""
    front = Thing("cube", "red", "large", "matte", y=-2.0)
    behind = Thing("cube", "blue", "small", "matte", y=0.2)
    for things in ((front, behind), (behind, front)):
        image = render([replace(one(), things=things, kind="pair")], 64)[0]
        assert covered(image, "red").sum() > 100
        assert covered(image, "blue").sum() < 20


def test_a_crop_is_a_window_of_the_whole() -> None:
    """Casting only a window's rays gives the window's pixels."""
    whole = render([one("cone")], 256)
    window = render([one("cone")], 256, crop=64, corners=torch.tensor([[96.0, 80.0]]))
    same = (
        (whole[:, :, 80:144, 96:160] - window).abs().amax(1)[0, 1:-1, 1:-1]
    )  # at the rim the antialiasing sees less
    assert float((same < 0.02).float().mean()) > 0.995


def test_sizes_show_the_same_scene() -> None:
    """A large drawing, reduced, is the small one."""
    small = render([one("cylinder", "green")], 64)
    large = render([one("cylinder", "green")], 256)
    assert float((torch.nn.functional.avg_pool2d(large, 4) - small).abs().mean()) < 0.03


def test_batches_do_not_mix() -> None:
    """A scene looks the same alone and beside others of every style."""
    others = [replace(one("cube"), style=style) for style in ("pixel art", "pencil sketch")] + [
        replace(one(), word="HELLO", kind="sign")
    ]
    alone = render([one("cone", "blue")], 64)
    among = render([one("cone", "blue"), *others], 64)
    assert torch.allclose(alone[0], among[0], atol=1e-4)


def test_a_sign_has_ink_and_styles_differ() -> None:
    """Letters are dark on light; a sketch is mostly paper."""
    sign = render([Scene("sign", (), None, "grass", "day", "photo", "HELLO")], 64)[0]
    board = sign[:, 10:22, 15:49]
    assert float(board.min()) < -0.4
    assert float(board.max()) > 0.6
    sketch = render([replace(one(), style="pencil sketch")], 64)[0]
    assert float((sketch > 0.8).all(0).float().mean()) > 0.6
