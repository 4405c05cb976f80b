"""A pool of rendered scenes on disk: 64² images and the image tower's features, in shards.

Scenes are a pure function of their index, so the pool holds no captions: those are drawn anew
at each step."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from models.networks.image_tower import ImageTower
from training.errors import TrainingError
from training.scenes.illustrated.captions import draw_caption
from training.scenes.illustrated.compose import render
from training.scenes.illustrated.scene import Scene, draw_scene
from training.scenes.illustrated.world import World

SHARD_SCENES = 5000
BATCH = 100
FINGERPRINT_SCENES = 500
CANVAS_PX = 128  # what the image tower sees, before its own resize
BASE_PX = 64


@dataclass(frozen=True)
class PoolArrays:
    """What a pool keeps on disk, memory-mapped, a list entry a shard."""

    images: list[NDArray[np.uint8]]  # [SHARD_SCENES, 64, 64, 3]
    features: list[NDArray[np.float16]]  # [SHARD_SCENES, W]
    # Of the 64² images, some blurred: what the judge reads.
    small_features: list[NDArray[np.float16]]
    device_images: Tensor | None = None  # all images, on a GPU that holds them

    def __len__(self) -> int:
        return sum(map(len, self.images))

    def image_batch(self, indices: Tensor) -> Tensor:
        """Return images `[B, 3, 64, 64]` in [-1, 1], on the pool's device if it has one."""
        if self.device_images is not None:
            batch = self.device_images[indices.to(self.device_images.device)]
        else:
            rows = [divmod(index, SHARD_SCENES) for index in indices.tolist()]
            batch = torch.from_numpy(np.stack([self.images[shard][row] for shard, row in rows]))
        return batch.permute(0, 3, 1, 2).float() / 127.5 - 1

    def feature_batch(self, indices: Tensor, *, small: bool = False) -> Tensor:
        """Return features `[B, W]`; `small`: those of the 64² images."""
        shards = self.small_features if small else self.features
        rows = [divmod(index, SHARD_SCENES) for index in indices.tolist()]
        return torch.from_numpy(np.stack([shards[shard][row] for shard, row in rows])).float()


@dataclass(frozen=True)
class ScenePool:
    """Illustrated scenes of one mix."""

    world: World
    mix: str
    arrays: PoolArrays

    def __len__(self) -> int:
        return len(self.arrays)

    def scene(self, index: int) -> Scene:
        """Return the scene of this index."""
        return draw_scene(self.world, index, self.mix)

    def caption(self, index: int, rng: random.Random) -> str:
        """Return a fresh caption of the scene."""
        return draw_caption(self.world, self.scene(index), rng)


def build_pool(
    folder: Path, world: World, tower: ImageTower, mix: str, shards: int, first: int = 0
) -> None:
    """Render shards `first` … `shards` - 1 that are not there yet. A shard appears only when
    complete."""
    folder.mkdir(parents=True, exist_ok=True)
    _check_fingerprint(folder, world, mix)

    def render_range(indices: range) -> Tensor:
        scenes = [draw_scene(world, index, mix) for index in indices]
        return render(world, scenes, CANVAS_PX, supersampling=1)

    build_shards(folder, render_range, tower, range(first, shards))


def build_shards(
    folder: Path, render_range: Callable[[range], Tensor], tower: ImageTower, shards: range
) -> None:
    """Render shards that are not there yet. `render_range` gives canvases of scenes by index."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in shards:
        if not _shard_path(folder, shard, "features").exists():
            indices = range(shard * SHARD_SCENES, (shard + 1) * SHARD_SCENES)
            images, features = render_scenes(render_range, tower, indices, f"shard {shard}")
            _write(_shard_path(folder, shard, "images"), images)
            _write(_shard_path(folder, shard, "features"), features)


@torch.inference_mode()
def render_scenes(
    render_range: Callable[[range], Tensor], tower: ImageTower, indices: range, label: str
) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Return images `[N, 64, 64, 3]` and features `[N, W]` of scenes."""
    images, features = [], []
    starts = range(indices.start, indices.stop, BATCH)
    for start in tqdm(starts, desc=label, unit_scale=BATCH, unit="scene", mininterval=5):
        canvas = render_range(range(start, min(start + BATCH, indices.stop)))
        features.append(image_features(tower, canvas).half())
        small = F.avg_pool2d(canvas, CANVAS_PX // BASE_PX)
        images.append(((small + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1))
    return torch.cat(images).numpy(), torch.cat(features).numpy()


@torch.inference_mode()
def image_features(tower: ImageTower, images: Tensor) -> Tensor:
    """Return features `[N, W]` of images `[N, 3, h, w]` in [-1, 1]."""
    tower = tower.eval().to(memory_format=torch.channels_last)
    features = []
    for batch in images.split(BATCH):
        with torch.autocast("cpu", torch.bfloat16):
            features.append(
                tower.features(batch.contiguous(memory_format=torch.channels_last)).float()
            )
    return torch.cat(features)


def build_small_features(folder: Path, arrays: PoolArrays, tower: ImageTower) -> None:
    """Compute the features of the pool's 64² images, shard by shard.

    Half of the images are blurred first."""
    for shard, images in enumerate(arrays.images):
        path = _shard_path(folder, shard, "small")
        if path.exists():
            continue
        batch = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
        blurred = F.avg_pool2d(F.pad(batch[::2], (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        batch[::2] = 0.5 * (batch[::2] + blurred)
        _write(path, image_features(tower, batch).half().numpy())


def load_pool(folder: Path, world: World, mix: str, device: str = "cpu") -> ScenePool:
    """Map the shards of a pool of illustrated scenes, as `load_arrays` does."""
    arrays = load_arrays(folder, device)
    _check_fingerprint(folder, world, mix)
    return ScenePool(world, mix, arrays)


def load_arrays(folder: Path, device: str = "cpu") -> PoolArrays:
    """Map the shards of a pool, as many as there are without a gap.

    A device other than the CPU also gets all images. Raises TrainingError when there are none."""
    images: list[Any] = []
    features: list[Any] = []
    small: list[Any] = []
    while _shard_path(folder, len(images), "features").exists():
        shard = len(images)
        images.append(np.load(_shard_path(folder, shard, "images"), mmap_mode="r"))
        features.append(np.load(_shard_path(folder, shard, "features"), mmap_mode="r"))
        path = _shard_path(folder, shard, "small")
        if path.exists():
            small.append(np.load(path, mmap_mode="r"))
    if not images:
        raise TrainingError(f"{folder} holds no scenes: build the pool first")
    on_device = None
    if device != "cpu":
        on_device = torch.cat([torch.from_numpy(np.array(shard)).to(device) for shard in images])
    return PoolArrays(images, features, small, on_device)


def _check_fingerprint(folder: Path, world: World, mix: str) -> None:
    """Raise TrainingError when the pool's scenes are not those that its indices give now.

    A pool without a fingerprint gets one."""
    scenes = [draw_scene(world, index, mix) for index in range(FINGERPRINT_SCENES)]
    fingerprint = str(crc32(repr(scenes).encode()))
    path = folder / "fingerprint.txt"
    if not path.exists():
        path.write_text(fingerprint)
    elif path.read_text() != fingerprint:
        raise TrainingError(
            f"{folder} was rendered from other scenes: the art, the tier or the scenes' code "
            "changed. Delete it and build the pool again."
        )


def _shard_path(folder: Path, shard: int, kind: str) -> Path:
    return folder / f"{shard:04}-{kind}.npy"


def _write(path: Path, array: NDArray[Any]) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, array)
    os.replace(part, path)
