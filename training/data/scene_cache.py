"""Drawn scenes kept on disk: on a CPU drawing costs as much as learning, so each scene is drawn once.

A pool is a folder with one uint8 array `[N, 3, 64, 64]`, drawn by several processes. The scenes themselves are not stored:
they are functions of their index.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from training.scenes.solids.render import render
from training.scenes.solids.scene import MIXES, Split, scene

POOL_SIZE_PX = 64
_CHUNK = 256  # scenes a task
_BATCH = 16  # scenes a pass: small enough for the caches

Images = npt.NDArray[np.uint8]


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] -> 0..255."""
    return images.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def to_float(images: Tensor) -> Tensor:
    """0..255 -> [-1, 1]."""
    return images.float().div(127.5).sub(1)


def draw(indices: range, mix: str, split: Split) -> Images:
    """uint8 images `[len(indices), 3, 64, 64]` of these scenes."""
    torch.set_num_threads(1)
    parts = []
    for start in range(0, len(indices), _BATCH):
        scenes = [scene(i, MIXES[mix], split) for i in indices[start : start + _BATCH]]
        parts.append(to_uint8(render(scenes, POOL_SIZE_PX)))
    return torch.cat(parts).numpy()


def pool(
    folder: Path, count: int, mix: str, split: Split = "train", processes: int | None = None
) -> Images:
    """The first `count` scenes of a split as a memory-mapped `[count, 3, 64, 64]`, drawn now if the folder lacks them."""
    path = folder / f"{mix}-{split.replace(' ', '-')}-{count}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        kept = np.lib.format.open_memmap(
            unfinished, mode="w+", dtype=np.uint8, shape=(count, 3, POOL_SIZE_PX, POOL_SIZE_PX)
        )
        chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
        with ProcessPoolExecutor(processes or os.cpu_count()) as workers:
            drawn = workers.map(draw, chunks, [mix] * len(chunks), [split] * len(chunks))
            for chunk, images in zip(
                chunks,
                tqdm(drawn, desc=f"drawing {split}", total=len(chunks), unit_scale=_CHUNK),
                strict=True,
            ):
                kept[chunk.start : chunk.stop] = images
        kept.flush()
        unfinished.rename(path)
    whole: Images = np.load(path, mmap_mode="r")
    return whole
