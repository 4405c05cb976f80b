"""The drawn world as tensors on a device: images, several captions of each in tokens, and the scene reader's answers.

A GPU learns from a scene in less time than a CPU needs to say what stands in it. So all that is said of a scene is said once, by
several processes, and the device draws the images for them.
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
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from tqdm import tqdm

from training.data.scene_cache import POOL_SIZE_PX, to_float, to_uint8
from training.scenes.classifier import QUESTIONS, answers_of
from training.scenes.solids.captions import caption
from training.scenes.solids.render import render
from training.scenes.solids.scene import MIXES, Split, scene
from training.trainer.trainer import Step

TOLD = 6  # captions of a scene
LENGTH = 40  # tokens, beyond those of the longest caption
_CHUNK = 2048  # scenes a task
_BATCH = {"cpu": 16, "cuda": 512}  # scenes a pass of the renderer
_FILES = {
    "images": (np.uint8, (3, POOL_SIZE_PX, POOL_SIZE_PX)),
    "tokens": (np.uint16, (TOLD, LENGTH)),
    "answers": (np.int8, (len(QUESTIONS),)),
}


@dataclass(frozen=True)
class Table:
    """The first scenes of a mix, all on one device: images uint8 `[N, 3, 64, 64]`, tokens int32 `[N, TOLD, LENGTH]`, and answers
    int8 `[N, questions]` as reader.answers_of gives them."""

    images: Tensor
    tokens: Tensor
    answers: Tensor

    def indices(self, step: Step) -> Tensor:
        """This process' scenes of a step, `[B]`: consecutive twins (see scene.scene)."""
        pairs = step.integers(len(self.images) // 2)
        return (pairs[::2, None] * 2 + torch.arange(2, device=pairs.device)).flatten()[: len(pairs)]

    def pairs(self, step: Step) -> tuple[Tensor, Tensor]:
        """Images `[B, 3, 64, 64]` in [-1, 1] and tokens `[B, LENGTH]`."""
        chosen = self.indices(step)
        return to_float(self.images[chosen]), self.tokens[chosen, step.integers(TOLD)].long()

    def answered(self, step: Step) -> tuple[Tensor, Tensor]:
        """Images `[B, 3, 64, 64]` in [-1, 1] and answers `[B, questions]`."""
        chosen = self.indices(step)
        return to_float(self.images[chosen]), self.answers[chosen].long()

    def first(self, count: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        for part in range(0, min(count, len(self.images)), 256):
            rows = slice(part, min(part + 256, count))
            yield to_float(self.images[rows]).to(device), self.tokens[rows, 0].long().to(device)


def table(
    folder: Path,
    count: int,
    mix: str,
    device: str,
    split: Split = "train",
    processes: int | None = None,
) -> Table:
    """The first `count` scenes of a split, drawn by the device now if the folder lacks them."""
    paths = {
        name: folder / f"{mix}-{split.replace(' ', '-')}-{count}-{name}.npy" for name in _FILES
    }
    if not all(path.exists() for path in paths.values()):
        _make(paths, count, mix, split, device, processes)
    kept = {name: torch.from_numpy(np.load(path)) for name, path in paths.items()}
    return Table(
        kept["images"].to(device),
        kept["tokens"].to(torch.int32).to(device),
        kept["answers"].to(device),
    )


def _make(
    paths: dict[str, Path], count: int, mix: str, split: Split, device: str, processes: int | None
) -> None:
    unfinished = {name: path.with_suffix(".part") for name, path in paths.items()}
    for name, (kind, shape) in _FILES.items():
        unfinished[name].parent.mkdir(parents=True, exist_ok=True)
        np.lib.format.open_memmap(
            unfinished[name], mode="w+", dtype=kind, shape=(count, *shape)
        ).flush()
    chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    # Spawned, not forked: a process that was forked cannot use the GPU.
    with ProcessPoolExecutor(
        processes or os.cpu_count(), mp_context=get_context("spawn")
    ) as workers:
        work = workers.map(
            _write, chunks, *([value] * len(chunks) for value in (unfinished, mix, split, device))
        )
        for _ in tqdm(work, desc=f"drawing {split}", total=len(chunks), unit_scale=_CHUNK):
            pass
    for name, path in paths.items():
        unfinished[name].rename(path)


@cache
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()


def _write(indices: range, paths: dict[str, Path], mix: str, split: Split, device: str) -> None:
    """Draw and tell of these scenes, into their places in the files."""
    torch.set_num_threads(1)
    scenes = [scene(index, MIXES[mix], split) for index in indices]
    batch = _BATCH[torch.device(device).type]
    drawn = [
        to_uint8(render(scenes[k : k + batch], POOL_SIZE_PX, device=device)).cpu()
        for k in range(0, len(scenes), batch)
    ]
    tokenizer = _tokenizer()
    tokens = np.zeros((len(scenes), TOLD, LENGTH), np.uint16)
    for row, (index, shown) in enumerate(zip(indices, scenes, strict=True)):
        rng = random.Random(index)
        for told in range(TOLD):
            ids = [
                tokenizer.sot_token_id,
                *tokenizer.encode(caption(shown, rng).text),
                tokenizer.eot_token_id,
            ]
            tokens[row, told, : len(ids)] = ids
    made = {
        "images": torch.cat(drawn).numpy(),
        "tokens": tokens,
        "answers": answers_of(scenes).numpy(),
    }
    for name, path in paths.items():
        np.load(path, mmap_mode="r+")[indices.start : indices.stop] = made[name]
