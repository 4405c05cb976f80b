"""Synthetic scenes as tensors on a device: images, tokens of several captions each, and labels.

A GPU learns from a scene faster than a CPU writes its captions. Several processes therefore write
all captions and labels once, and the device renders the images.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from tqdm import tqdm

from training.data.solids.scene_cache import IMAGE_SIZE_PX, split_range
from training.scenes.pixels import to_float, to_uint8
from training.scenes.solids.captions import draw_caption
from training.scenes.solids.labels import QUESTIONS, encode_labels
from training.scenes.solids.render import render
from training.scenes.solids.scene import MIXES, Scene, Split, draw_scene
from training.trainer.step import Step

CAPTIONS_PER_SCENE = 6
MAX_TOKENS = 40  # more than those of the longest caption
_CHUNK = 2048  # scenes a task
_BATCH = {"cpu": 16, "cuda": 512}  # scenes a forward pass of the renderer
_FILES = {
    "images": (np.uint8, (3, IMAGE_SIZE_PX, IMAGE_SIZE_PX)),
    "tokens": (np.uint16, (CAPTIONS_PER_SCENE, MAX_TOKENS)),
    "labels": (np.int8, (len(QUESTIONS),)),
}


@dataclass(frozen=True)
class DeviceDataset:
    """The first N scenes of a mix, on one device."""

    images: Tensor  # [N, 3, 64, 64] uint8
    tokens: Tensor  # [N, CAPTIONS_PER_SCENE, MAX_TOKENS] int32
    labels: Tensor  # [N, questions] int8, see labels.encode_labels

    def draw_indices(self, step: Step) -> Tensor:
        """Return this process' scenes of a step, `[B]`: consecutive twins."""
        pairs = step.integers(len(self.images) // 2)
        return (pairs[::2, None] * 2 + torch.arange(2, device=pairs.device)).flatten()[: len(pairs)]

    def pairs(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return images `[B, 3, 64, 64]` in [-1, 1] and tokens `[B, MAX_TOKENS]`."""
        chosen = self.draw_indices(step)
        which = step.integers(CAPTIONS_PER_SCENE)
        return to_float(self.images[chosen]), self.tokens[chosen, which].long()

    def labelled(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return images `[B, 3, 64, 64]` in [-1, 1] and labels `[B, questions]`."""
        chosen = self.draw_indices(step)
        return to_float(self.images[chosen]), self.labels[chosen].long()

    def first_batches(self, count: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        for part in range(0, min(count, len(self.images)), 256):
            rows = slice(part, min(part + 256, count))
            yield to_float(self.images[rows]).to(device), self.tokens[rows, 0].long().to(device)


def load_device_dataset(
    folder: Path,
    count: int,
    mix: str,
    device: str,
    split: Split = "train",
    processes: int | None = None,
) -> DeviceDataset:
    """Load the first `count` scenes of a split onto a device.

    The device renders them if the folder lacks them; `processes` defaults to the number of CPUs."""
    paths = {name: folder / f"{mix}-{split}-{count}-{name}.npy" for name in _FILES}
    if not all(path.exists() for path in paths.values()):
        _build(paths, count, mix, split, device, processes)
    arrays = {name: torch.from_numpy(np.load(path)) for name, path in paths.items()}
    return DeviceDataset(
        arrays["images"].to(device),
        arrays["tokens"].to(torch.int32).to(device),
        arrays["labels"].to(device),
    )


def _build(
    paths: dict[str, Path], count: int, mix: str, split: Split, device: str, processes: int | None
) -> None:
    parts = {name: path.with_suffix(".part") for name, path in paths.items()}
    for name, (kind, shape) in _FILES.items():
        parts[name].parent.mkdir(parents=True, exist_ok=True)
        whole = (count, *shape)
        np.lib.format.open_memmap(parts[name], mode="w+", dtype=kind, shape=whole).flush()
    chunks = split_range(count, _CHUNK)
    constants = ([value] * len(chunks) for value in (parts, mix, split, device))
    # Spawned, not forked: a forked process cannot use the GPU.
    with ProcessPoolExecutor(
        processes or os.cpu_count(), mp_context=get_context("spawn")
    ) as workers:
        results = workers.map(_write, chunks, *constants)
        for _ in tqdm(results, desc=f"rendering {split}", total=len(chunks), unit_scale=_CHUNK):
            pass
    for name, path in paths.items():
        parts[name].rename(path)


@cache
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()


def _write(indices: range, paths: dict[str, Path], mix: str, split: Split, device: str) -> None:
    """Write images, tokens and labels of these scenes into the files."""
    torch.set_num_threads(1)
    scenes = [draw_scene(index, MIXES[mix], split) for index in indices]
    batch = _BATCH[torch.device(device).type]
    images = [
        to_uint8(render(scenes[start : start + batch], IMAGE_SIZE_PX, device=device)).cpu()
        for start in range(0, len(scenes), batch)
    ]
    arrays: dict[str, npt.NDArray[np.generic]] = {
        "images": torch.cat(images).numpy(),
        "tokens": _tokenize_captions(indices, scenes),
        "labels": encode_labels(scenes).numpy(),
    }
    for name, path in paths.items():
        np.load(path, mmap_mode="r+")[indices.start : indices.stop] = arrays[name]


def _tokenize_captions(indices: range, scenes: list[Scene]) -> npt.NDArray[np.uint16]:
    tokenizer = _tokenizer()
    tokens = np.zeros((len(scenes), CAPTIONS_PER_SCENE, MAX_TOKENS), np.uint16)
    for row, (index, scene) in enumerate(zip(indices, scenes, strict=True)):
        rng = random.Random(index)
        for number in range(CAPTIONS_PER_SCENE):
            text = tokenizer.encode(draw_caption(scene, rng).text)
            ids = [tokenizer.sot_token_id, *text, tokenizer.eot_token_id]
            tokens[row, number, : len(ids)] = ids
    return tokens
