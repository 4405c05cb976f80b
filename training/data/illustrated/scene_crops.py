"""Large renders of scenes with small degraded versions: what the illustrated upsamplers and the
matting network learn from."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from training.data.degradation import SCALE, blur_some, degrade
from training.errors import TrainingError
from training.scenes.illustrated.art.vector_atlas import at_size
from training.scenes.illustrated.compose import render, render_alpha
from training.scenes.illustrated.scene import Scene, draw_scene
from training.scenes.illustrated.world import World
from training.trainer.step import Step

CROP_PX = 128
# Crops of so few different pixels teach nothing.
MIN_SPREAD = 0.05


@dataclass(frozen=True)
class SceneCrops:
    """Crops of renders at `size`, half of them mirrored."""

    size: int
    crops: NDArray[np.uint8]  # [N, CROP_PX, CROP_PX, 3]

    def pairs(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return crops `[B, 3, h, w]` and degraded small versions `[B, 3, h/4, w/4]`, both in [-1,
        1]."""
        indices = torch.randint(len(self.crops), (step.batch,), generator=step.generator)
        x_0 = torch.from_numpy(self.crops[indices.numpy()]).permute(0, 3, 1, 2).float() / 127.5 - 1
        mirrored = step.uniform(1, 1, 1) < 0.5
        x_0 = torch.where(mirrored, x_0.flip(3), x_0)
        return x_0, degrade_like_decoder(x_0, self.size, step)


def degrade_like_decoder(x_0: Tensor, size: int, step: Step) -> Tensor:
    """Return small versions `[B, 3, h/4, w/4]` with faults as a decoder makes them: wobbling edges,
    smears, faint noise."""
    small = F.avg_pool2d(x_0, SCALE)
    if size > 256:
        seeds = [int(torch.randint(1 << 62, (), generator=step.generator)) for _ in range(len(x_0))]
        rough = torch.stack([degrade(image, seed) for image, seed in zip(x_0, seeds, strict=True)])
        small = torch.where(step.uniform(1, 1, 1) < 0.5, rough, small)
    small = blur_some(small, 0.7, step)
    return _wobble(small, step).clamp(-1, 1)


def _wobble(images: Tensor, step: Step) -> Tensor:
    """Move pixels by a smooth field of up to half a pixel, for half of the images, and add faint
    noise to some."""
    count, _, height, width = images.shape
    field = F.interpolate(step.normal(2, height // 4, width // 4), (height, width), mode="bicubic")
    strength = (step.uniform(1, 1, 1) * 2 - 1).clamp(min=0) * 0.5
    offsets = (field * strength / torch.tensor([width / 2, height / 2])[:, None, None]).permute(
        0, 2, 3, 1
    )
    identity = F.affine_grid(
        torch.eye(2, 3).expand(count, 2, 3), [count, 1, height, width], align_corners=False
    )
    moved = F.grid_sample(
        images, identity + offsets, mode="bilinear", padding_mode="border", align_corners=False
    )
    noise = (step.uniform(1, 1, 1) * 2 - 1).clamp(min=0) * 0.04
    return moved + noise * step.normal(3, height, width)


def build_crops(path: Path, world: World, art: Path, size: int, count: int, per_scene: int) -> None:
    """Render scenes at `size` and keep `per_scene` crops of each, until there are `count`. The file
    appears when complete."""
    if path.exists():
        return
    large = at_size(world, art, size, vectors_only=size > 256)
    crops: list[NDArray[np.uint8]] = []
    bar = tqdm(total=count, desc=f"crops at {size} px", unit="crop", mininterval=5)
    index = 0
    while len(crops) < count:
        index += 1
        scene = draw_scene(world, index, "full")
        if not is_shown(large, scene):
            continue
        image = (
            ((render(large, [scene], size, supersampling=1)[0] + 1) * 127.5)
            .round()
            .byte()
            .permute(1, 2, 0)
            .numpy()
        )
        rng = random.Random(f"crops {index}")
        for _ in range(per_scene):
            for _ in range(20):
                y, x = rng.randint(0, size - CROP_PX), rng.randint(0, size - CROP_PX)
                crop = image[y : y + CROP_PX, x : x + CROP_PX]
                if crop.std() > MIN_SPREAD * 255:
                    break
            crops.append(crop)
            bar.update()
    save_array(path, np.stack(crops[:count]))


def is_shown(world: World, scene: Scene) -> bool:
    """Return whether the scene's set shows all of its things in this world."""
    labels = [scene.extra, *(part.worn for part in scene.parts)]
    names = [part.name for part in scene.parts] + [world.index(label) for label in labels if label]
    return all(world.atlas.table[name, scene.art_set] >= 0 for name in names)


def load_crops(path: Path, size: int) -> SceneCrops:
    """Map the crops of a size. Raises TrainingError when they were not built."""
    if not path.exists():
        raise TrainingError(f"{path} is missing: build the crops first")
    return SceneCrops(size, np.load(path, mmap_mode="r"))


def build_mattes(path: Path, world: World, art: Path, size: int, count: int) -> None:
    """Render scenes on white and on colours at `size` with their alpha as a fourth channel, `[N,
    size, size, 4]`."""
    if path.exists():
        return
    large = at_size(world, art, size)
    images = np.zeros((count, size, size, 4), dtype=np.uint8)
    row = 0
    for index in tqdm(range(1, 100 * count), desc=f"mattes at {size} px", mininterval=5):
        scene = draw_scene(world, index, "simple")
        if scene.time is not None or not is_shown(large, scene):
            continue
        image = render(large, [scene], size, supersampling=1)[0]
        alpha = render_alpha(large, [scene], size)[0]
        pixels = torch.cat(((image + 1) / 2, alpha)).clamp(0, 1)
        images[row] = (pixels * 255).round().byte().permute(1, 2, 0).numpy()
        row += 1
        if row == count:
            break
    save_array(path, images)


def save_array(path: Path, array: NDArray[np.uint8]) -> None:
    """Write an array so that the file appears only when complete."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, array)
    os.replace(part, path)
