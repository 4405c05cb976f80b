"""Crops of synthetic scenes, rendered once: a crop costs only its own rays, whatever the size."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from training.data.crops import CropSource, mirror_where
from training.data.degradation import degrade_crops
from training.data.solids.scene_cache import Images, split_range
from training.scenes.pixels import to_float, to_uint8
from training.scenes.solids.render import render
from training.scenes.solids.scene import MIXES, draw_scene
from training.trainer.step import Step

CROP_PX = 64
_VERSIONS = 3  # degraded versions of each crop


@dataclass(frozen=True)
class CachedCrops:
    """Windows of 64² pixels of images of `size`², `[N, 3, 64, 64]`, in host memory."""

    images: Images
    size: int

    def pairs(self, step: Step) -> tuple[Tensor, Tensor]:
        chosen = step.local(
            torch.randint(len(self.images), (step.batch,), generator=step.generator)
        )
        crops = to_float(torch.from_numpy(self.images[chosen.numpy()])).to(step.device)
        x_0 = mirror_where(crops, step.uniform() < 0.5)
        return x_0, degrade_crops(x_0, self.size, step)


@dataclass(frozen=True)
class DeviceCrops:
    """Windows of 64² pixels on a device.

    Degradation by JPEG runs on the CPU and was done before: `small` has K versions of each crop. It
    is None if the device can degrade the crops itself."""

    images: Tensor  # [N, 3, 64, 64] uint8
    small: Tensor | None  # [N, K, 3, 16, 16] uint8
    size: int

    def pairs(self, step: Step) -> tuple[Tensor, Tensor]:
        chosen = step.integers(len(self.images))
        mirrored = step.uniform() < 0.5
        x_0 = mirror_where(to_float(self.images[chosen]), mirrored)
        if self.small is None:
            return x_0, degrade_crops(x_0, self.size, step)
        versions = step.integers(self.small.shape[1])
        return x_0, mirror_where(to_float(self.small[chosen, versions]), mirrored)


def render_crops(indices: range, mix: str, size: int, device: str = "cpu") -> Images:
    """Render one window of each of these scenes, uint8 `[len(indices), 3, 64, 64]`."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(indices.start)
    parts = []
    batch = 16 if device == "cpu" else 256
    for start in range(0, len(indices), batch):
        scenes = [draw_scene(i, MIXES[mix]) for i in indices[start : start + batch]]
        corners = _draw_corners(render(scenes, 64, device=device).cpu(), size, generator)
        crops = render(scenes, size, crop=CROP_PX, corners=corners, device=device)
        parts.append(to_uint8(crops).cpu())
    return torch.cat(parts).numpy()


def load_crops(folder: Path, count: int, mix: str, size: int, device: str = "cpu") -> CropSource:
    """Load `count` crops of images of `size`², onto the device if it is a GPU.

    The device renders them if the folder lacks them."""
    is_gpu = device != "cpu"
    path = folder / f"{mix}-crops-{size}-{count}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        per_task = 1024 if is_gpu else 32
        chunks = split_range(count, per_task)
        constants = ([value] * len(chunks) for value in (mix, size, device))
        with ProcessPoolExecutor(mp_context=get_context("spawn" if is_gpu else None)) as workers:
            results = workers.map(render_crops, chunks, *constants)
            label = f"rendering crops of {size}²"
            bar = tqdm(results, desc=label, total=len(chunks), unit_scale=per_task)
            _save(path, np.concatenate(list(bar)))
    crops: Images = np.load(path)
    if not is_gpu:
        return CachedCrops(crops, size)
    small = None if size == 256 else _load_small(path, crops, size).to(device)
    return DeviceCrops(torch.from_numpy(crops).to(device), small, size)


def _draw_corners(small: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Return upper left corners `[B, 2]`, more likely where the image `[B, 3, 64, 64]` changes."""
    change = (small[:, :, 1:, 1:] - small[:, :, :-1, :-1]).abs().mean(1)
    weights = F.pad(change, (0, 1, 0, 1)) + 0.02  # (B, 64, 64), a little everywhere
    cell = torch.multinomial(weights.flatten(1), 1, generator=generator)[:, 0]
    within = torch.rand(len(small), 2, generator=generator)
    centre = torch.stack((cell % 64, cell // 64), 1).float() + within
    return (centre * size / 64 - CROP_PX / 2).round().clamp(0, size - CROP_PX)


def _load_small(path: Path, crops: Images, size: int) -> Tensor:
    """Load degraded versions of crops, uint8 `[N, _VERSIONS, 3, 16, 16]`; make missing ones."""
    small_path = path.with_name(f"{path.stem}-small.npy")
    if not small_path.exists():
        chunks = np.array_split(crops, max(1, len(crops) // 1024))
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as workers:
            results = workers.map(_degrade, chunks, range(len(chunks)), [size] * len(chunks))
            bar = tqdm(results, desc="degrading crops", total=len(chunks), unit_scale=1024)
            _save(small_path, np.concatenate(list(bar)))
    return torch.from_numpy(np.load(small_path))


def _degrade(crops: Images, seed: int, size: int) -> Images:
    torch.set_num_threads(1)
    x_0 = to_float(torch.from_numpy(crops))
    step = Step(0, len(x_0), x_0.device, torch.Generator().manual_seed(seed))
    versions = [degrade_crops(x_0, size, step) for _ in range(_VERSIONS)]
    return to_uint8(torch.stack(versions, dim=1)).numpy()


def _save(path: Path, values: Images) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, values)
    part.rename(path)
