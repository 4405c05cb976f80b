"""What the upsamplers learn from: crops of large drawings, and the corruption of their small versions.

64 -> 256 sees its small image blurred (Gaussian, 3 pixels, sigma 0.6: SR3); 256 -> 1024 sees it through a BSR
degradation (Zhang et al. 2021, arXiv 2103.14006): blur, resizing, noise and JPEG in random order and strength (paper §2.1).
"""

from __future__ import annotations

import io
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from training.data.scene_cache import Images, to_float, to_uint8
from training.data.sources import Source
from training.scenes.solids.render import render
from training.scenes.solids.scene import MIXES, scene
from training.trainer.trainer import Step

SCALE = 4
CROP_PX = 64
_VERSIONS = 3


@dataclass(frozen=True)
class Crops:
    """Windows of 64² pixels out of drawings of `size`², as `[N, 3, 64, 64]`."""

    images: Images
    size: int

    def pairs(self, step: Step) -> tuple[Tensor, Tensor]:
        """`[B, 3, 64, 64]` in [-1, 1], half of them mirrored, and their corrupted small versions `[B, 3, 16, 16]`."""
        chosen = step.own(torch.randint(len(self.images), (step.batch,), generator=step.generator))
        x_0 = _some_mirrored(
            to_float(torch.from_numpy(self.images[chosen.numpy()])).to(step.device), step
        )
        return x_0, corrupt(x_0, self.size, step)


@dataclass(frozen=True)
class KeptCrops:
    """The same on a device, uint8 `[N, 3, 64, 64]`. What JPEG has a part in is done on the CPU and was done before: `small` are so many
    corrupted versions of each, uint8 `[N, K, 3, 16, 16]`, none where the device can make them."""

    images: Tensor
    small: Tensor | None
    size: int

    def pairs(self, step: Step) -> tuple[Tensor, Tensor]:
        """As Crops'."""
        chosen = step.integers(len(self.images))
        mirrored = step.uniform() < 0.5
        x_0 = _mirrored(to_float(self.images[chosen]), mirrored)
        if self.small is None:
            return x_0, corrupt(x_0, self.size, step)
        return x_0, _mirrored(
            to_float(self.small[chosen, step.integers(self.small.shape[1])]), mirrored
        )


@dataclass(frozen=True)
class ImageCrops:
    """Windows of a quarter of the side out of a source's images of `size`² (paper, table 3: crop fraction 0.25)."""

    source: Source
    size: int

    def pairs(self, step: Step) -> tuple[Tensor, Tensor]:
        """`[B, 3, size / 4, size / 4]` in [-1, 1], half of them mirrored, and their corrupted small versions."""
        images, _ = self.source.pairs(step)
        side = self.size // SCALE
        corners = step.own(
            torch.randint(self.size - side + 1, (step.batch, 2), generator=step.generator)
        ).tolist()
        crops = [
            image[:, y : y + side, x : x + side]
            for image, (y, x) in zip(images, corners, strict=True)
        ]
        x_0 = _some_mirrored(torch.stack(crops), step)
        return x_0, corrupt(x_0, self.size, step)


def _some_mirrored(images: Tensor, step: Step) -> Tensor:
    return _mirrored(images, step.uniform() < 0.5)


def _mirrored(images: Tensor, which: Tensor) -> Tensor:
    return torch.where(which[:, None, None, None], images.flip(3), images)


def _corners(small: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Where to cut: windows drawn in proportion to what there is to see, plus a little everywhere."""
    change = (
        F.pad((small[:, :, 1:, 1:] - small[:, :, :-1, :-1]).abs().mean(1), (0, 1, 0, 1)) + 0.02
    )  # (B, 64, 64)
    cell = torch.multinomial(change.flatten(1), 1, generator=generator)[:, 0]
    centre = torch.stack((cell % 64, cell // 64), 1).float() + torch.rand(
        len(small), 2, generator=generator
    )
    return (centre * size / 64 - CROP_PX / 2).round().clamp(0, size - CROP_PX)


def draw_crops(indices: range, mix: str, size: int, device: str = "cpu") -> Images:
    """One window out of each of these scenes, uint8 `[len(indices), 3, 64, 64]`."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(indices.start)
    parts = []
    batch = 16 if device == "cpu" else 256
    for start in range(0, len(indices), batch):
        scenes = [scene(i, MIXES[mix]) for i in indices[start : start + batch]]
        corners = _corners(render(scenes, 64, device=device).cpu(), size, generator)
        parts.append(
            to_uint8(render(scenes, size, crop=CROP_PX, corners=corners, device=device)).cpu()
        )
    return torch.cat(parts).numpy()


def crop_pool(
    folder: Path, count: int, mix: str, size: int, device: str = "cpu"
) -> Crops | KeptCrops:
    """`count` crops out of drawings of `size`², drawn now, by the device, if the folder lacks them. For a GPU they are put there."""
    of_gpu = device != "cpu"
    path = folder / f"{mix}-crops-{size}-{count}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        per_task = 1024 if of_gpu else 32
        chunks = [range(start, min(start + per_task, count)) for start in range(0, count, per_task)]
        with ProcessPoolExecutor(mp_context=get_context("spawn" if of_gpu else None)) as workers:
            drawn = workers.map(
                draw_crops, chunks, *([value] * len(chunks) for value in (mix, size, device))
            )
            images = list(
                tqdm(drawn, desc=f"drawing crops of {size}", total=len(chunks), unit_scale=per_task)
            )
        _save(path, np.concatenate(images))
    kept: Images = np.load(path)
    if not of_gpu:
        return Crops(kept, size)
    return KeptCrops(
        torch.from_numpy(kept).to(device),
        None if size == 256 else _small(path, kept, size).to(device),
        size,
    )


def _small(path: Path, crops: Images, size: int) -> Tensor:
    """Corrupted versions of crops, uint8 `[N, _VERSIONS, 3, 16, 16]`, made now if they are not beside them."""
    beside = path.with_name(f"{path.stem}-small.npy")
    if not beside.exists():
        chunks = np.array_split(crops, max(1, len(crops) // 1024))
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as workers:
            made = workers.map(_versions, chunks, range(len(chunks)), [size] * len(chunks))
            _save(
                beside,
                np.concatenate(
                    list(tqdm(made, desc="corrupting crops", total=len(chunks), unit_scale=1024))
                ),
            )
    return torch.from_numpy(np.load(beside))


def _versions(crops: Images, seed: int, size: int) -> Images:
    torch.set_num_threads(1)
    x_0 = to_float(torch.from_numpy(crops))
    generator = torch.Generator().manual_seed(seed)
    made = [corrupt(x_0, size, Step(0, len(x_0), x_0.device, generator)) for _ in range(_VERSIONS)]
    return to_uint8(torch.stack(made, dim=1)).numpy()


def _save(path: Path, values: Images) -> None:
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        np.save(file, values)
    unfinished.rename(path)


def corrupt(x_0: Tensor, size: int, step: Step) -> Tensor:
    """This process' large crops `[B, 3, h, w]` -> the corrupted small images `[B, 3, h/4, w/4]` that the upsampler is given."""
    if size == 256:
        return blur(F.avg_pool2d(x_0, SCALE), 0.6, step)
    seeds = step.own(
        [int(torch.randint(1 << 62, (), generator=step.generator)) for _ in range(step.batch)]
    )
    return torch.stack([degrade(image, seed) for image, seed in zip(x_0, seeds, strict=True)])


def gaussian_kernel(sigma: float, taps: int = 3) -> Tensor:
    """`[taps, taps]`, summing to one."""
    line = torch.exp(-((torch.arange(taps) - taps // 2).float() ** 2) / (2 * sigma * sigma))
    kernel = torch.outer(line, line)
    return kernel / kernel.sum()


def _convolved(x: Tensor, kernel: Tensor) -> Tensor:
    """Images `[B, 3, h, w]` through one kernel, edges repeated."""
    half = kernel.shape[0] // 2
    weight = kernel.to(x)[None, None].expand(3, 1, -1, -1)
    return F.conv2d(F.pad(x, (half,) * 4, mode="replicate"), weight, groups=3)


def blur(low: Tensor, sigma: float, step: Step, probability: float = 0.5) -> Tensor:
    """Small images, half of them blurred: with and without, so that clean ones are met too."""
    chosen = step.uniform(1, 1, 1) < probability
    return torch.where(chosen, _convolved(low, gaussian_kernel(sigma)), low)


def degrade(image: Tensor, seed: int) -> Tensor:
    """One image `[3, h, w]` -> `[3, h/4, w/4]`: blur, resize by 4, noise and JPEG, in random order and strength."""
    rng = random.Random(seed)
    x = image[None]
    steps = ["blur", "resize", "noise"]
    rng.shuffle(steps)
    for name in steps:
        if name == "blur":
            x = _convolved(x, gaussian_kernel(rng.uniform(0.2, 1.5), 7))
        elif name == "resize":
            x = _resized(x, rng)
        elif rng.random() < 0.5:
            noise = torch.randn(
                x.shape, generator=torch.Generator().manual_seed(rng.getrandbits(62))
            )
            x = x + noise.to(x) * rng.uniform(0.0, 0.06)
    if rng.random() < 0.5:
        x = _jpeg(x, rng.randint(60, 95))
    return x[0].clamp(-1, 1)


def _resized(x: Tensor, rng: random.Random) -> Tensor:
    height = x.shape[-2] // SCALE
    width = x.shape[-1] // SCALE
    mode = rng.choice(("area", "bilinear", "bicubic"))
    if mode == "area":
        return F.interpolate(x, (height, width), mode="area")
    return F.interpolate(x, (height, width), mode=mode, antialias=True)


def _jpeg(x: Tensor, quality: int) -> Tensor:
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(x[0]).permute(1, 2, 0).cpu().numpy()).save(
        buffer, "JPEG", quality=quality
    )
    back = torch.from_numpy(np.asarray(Image.open(buffer)).copy()).permute(2, 0, 1)[None]
    return to_float(back).to(x)
