"""A cache of rendered scenes on disk: on a CPU, rendering costs as much as learning.

A cache is one uint8 array `[N, 3, 64, 64]`, rendered by several processes. Scenes are functions of
their index, so they are not stored.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from training.scenes.pixels import to_uint8
from training.scenes.solids.render import render
from training.scenes.solids.scene import MIXES, Split, draw_scene

IMAGE_SIZE_PX = 64
_CHUNK = 256  # scenes a task
_BATCH = 16  # scenes a forward pass of the renderer: small enough for the CPU's caches

Images = npt.NDArray[np.uint8]


def cached_scenes(
    folder: Path, count: int, mix: str, split: Split = "train", processes: int | None = None
) -> Images:
    """Return the first `count` scenes of a split, memory-mapped `[count, 3, 64, 64]`.

    Renders them if the folder lacks them; `processes` defaults to the number of CPUs."""
    path = folder / f"{mix}-{split}-{count}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _render_to(path, count, mix, split, processes)
    images: Images = np.load(path, mmap_mode="r")
    return images


def split_range(count: int, chunk: int) -> list[range]:
    """Return range(count) in parts of at most `chunk`."""
    return [range(start, min(start + chunk, count)) for start in range(0, count, chunk)]


def _render_to(path: Path, count: int, mix: str, split: Split, processes: int | None) -> None:
    part = path.with_suffix(".part")
    shape = (count, 3, IMAGE_SIZE_PX, IMAGE_SIZE_PX)
    array = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
    chunks = split_range(count, _CHUNK)
    with ProcessPoolExecutor(processes or os.cpu_count()) as workers:
        results = workers.map(_render, chunks, [mix] * len(chunks), [split] * len(chunks))
        bar = tqdm(results, desc=f"rendering {split}", total=len(chunks), unit_scale=_CHUNK)
        for chunk, images in zip(chunks, bar, strict=True):
            array[chunk.start : chunk.stop] = images
    array.flush()
    part.rename(path)


def _render(indices: range, mix: str, split: Split) -> Images:
    torch.set_num_threads(1)
    parts = []
    for start in range(0, len(indices), _BATCH):
        scenes = [draw_scene(i, MIXES[mix], split) for i in indices[start : start + _BATCH]]
        parts.append(to_uint8(render(scenes, IMAGE_SIZE_PX)))
    return torch.cat(parts).numpy()
