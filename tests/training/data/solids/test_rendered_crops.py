"""Crops of rendered scenes, with small versions of the same windows."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from training.data.solids.rendered_crops import DeviceCrops, load_crops
from training.trainer.step import Step

CPU = torch.device("cpu")


def build_step(number: int, batch: int = 8) -> Step:
    return Step(number, batch, CPU, torch.Generator().manual_seed(number))


def test_device_crops_and_small_versions_are_mirrored_together() -> None:
    """A small version is nearer to its crop than to the mirrored one."""
    columns = torch.arange(64).mul(2).expand(4, 3, 64, 64)
    images = (torch.arange(4)[:, None, None, None] * 20 + columns).to(torch.uint8)
    versions = F.avg_pool2d(images.float(), 4).round().to(torch.uint8)
    small = versions[:, None].expand(-1, 2, -1, -1, -1)
    for crops in (DeviceCrops(images, small, 1024), DeviceCrops(images, None, 256)):
        x_0, low = crops.pairs(build_step(1))
        distance = (F.avg_pool2d(x_0, 4) - low).abs().mean()
        assert distance < 0.2 * (F.avg_pool2d(x_0.flip(3), 4) - low).abs().mean()


def test_crops_are_rendered_once(tmp_path: Path) -> None:
    """The file is read again, with the same windows."""
    crops = load_crops(tmp_path, 8, "objects", 256)
    (path,) = tmp_path.glob("*.npy")
    written = path.stat().st_mtime_ns
    again = load_crops(tmp_path, 8, "objects", 256)
    assert path.stat().st_mtime_ns == written
    assert torch.equal(crops.pairs(build_step(0))[0], again.pairs(build_step(0))[0])
