"""Crops of the user's images, for the upsamplers."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from training.data.crops import ImageCrops
from training.data.image_text import Folder
from training.trainer.step import Step


def build_step(number: int) -> Step:
    return Step(number, 4, torch.device("cpu"), torch.Generator().manual_seed(number))


def test_windows_have_a_quarter_of_the_side(tmp_path: Path) -> None:
    """A step has the same windows each time, and different ones within its batch."""
    tmp_path.joinpath("one.txt").write_text("stripes")
    Image.effect_noise((256, 256), 60).convert("RGB").save(tmp_path / "one.png")
    crops = ImageCrops(Folder(tmp_path, 256), 256)
    first, low = crops.pairs(build_step(1))
    again, _ = crops.pairs(build_step(1))
    assert first.shape == (4, 3, 64, 64)
    assert low.shape == (4, 3, 16, 16)
    assert torch.equal(first, again)
    assert not torch.equal(first[0], first[1])
