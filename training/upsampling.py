"""What the upsamplers learn from: crops of large drawings, and the corruption of their small versions.

64 -> 256 sees its small picture blurred (Gaussian, 3 pixels, sigma 0.6: SR3); 256 -> 1024 sees it through a BSR
degradation (Zhang et al. 2021, arXiv 2103.14006): blur, resizing, noise and JPEG in random order and strength (paper §2.1).
"""

from __future__ import annotations

import io
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from training.data import Source
from training.loop import Step
from training.pool import Pictures, to_float, to_uint8
from training.render import render
from training.scene import MIXES, scene

SCALE = 4
CROP_PX = 64
_SCENES_A_CHUNK = 32


@dataclass(frozen=True)
class Crops:
    """Windows of 64² pixels out of drawings of `size`², as `[N, 3, 64, 64]`."""

    pictures: Pictures
    size: int

    def batch(self, step: Step) -> Tensor:
        """`[B, 3, 64, 64]` in [-1, 1], half of them mirrored."""
        chosen = step.own(torch.randint(len(self.pictures), (step.batch,), generator=step.generator))
        return _some_mirrored(to_float(torch.from_numpy(self.pictures[chosen.numpy()])).to(step.device), step)


@dataclass(frozen=True)
class PictureCrops:
    """Windows of a quarter of the side out of a source's pictures of `size`² (paper, table 3: crop fraction 0.25)."""

    source: Source
    size: int

    def batch(self, step: Step) -> Tensor:
        """`[B, 3, size / 4, size / 4]` in [-1, 1], half of them mirrored."""
        pictures, _ = self.source.pairs(step)
        side = self.size // SCALE
        corners = step.own(torch.randint(self.size - side + 1, (step.batch, 2), generator=step.generator)).tolist()
        crops = [picture[:, y : y + side, x : x + side] for picture, (y, x) in zip(pictures, corners, strict=True)]
        return _some_mirrored(torch.stack(crops), step)


def _some_mirrored(pictures: Tensor, step: Step) -> Tensor:
    mirrored = step.own(torch.rand(step.batch, generator=step.generator) < 0.5).to(step.device)
    return torch.where(mirrored[:, None, None, None], pictures.flip(3), pictures)


def _corners(small: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Where to cut: windows drawn in proportion to what there is to see, plus a little everywhere."""
    change = F.pad((small[:, :, 1:, 1:] - small[:, :, :-1, :-1]).abs().mean(1), (0, 1, 0, 1)) + 0.02  # (B, 64, 64)
    cell = torch.multinomial(change.flatten(1), 1, generator=generator)[:, 0]
    centre = torch.stack((cell % 64, cell // 64), 1).float() + torch.rand(len(small), 2, generator=generator)
    return (centre * size / 64 - CROP_PX / 2).round().clamp(0, size - CROP_PX)


def draw_crops(indices: range, mix: str, size: int) -> Pictures:
    """One window out of each of these scenes, uint8 `[len(indices), 3, 64, 64]`."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(indices.start)
    parts = []
    for start in range(0, len(indices), 16):
        scenes = [scene(i, MIXES[mix]) for i in indices[start : start + 16]]
        corners = _corners(render(scenes, 64), size, generator)
        parts.append(to_uint8(render(scenes, size, crop=CROP_PX, corners=corners)))
    return torch.cat(parts).numpy()


def crop_pool(folder: Path, count: int, mix: str, size: int) -> Crops:
    """`count` crops out of drawings of `size`², drawn now if the folder lacks them."""
    path = folder / f"{mix}-crops-{size}-{count}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        chunks = [range(start, min(start + _SCENES_A_CHUNK, count)) for start in range(0, count, _SCENES_A_CHUNK)]
        with ProcessPoolExecutor() as workers:
            drawn = workers.map(draw_crops, chunks, [mix] * len(chunks), [size] * len(chunks))
            pictures = list(tqdm(drawn, desc=f"drawing crops of {size}", total=len(chunks), unit_scale=_SCENES_A_CHUNK))
        unfinished = path.with_suffix(".part")
        with unfinished.open("wb") as file:
            np.save(file, np.concatenate(pictures))
        unfinished.rename(path)
    return Crops(np.load(path), size)


def corrupt(x_0: Tensor, size: int, step: Step) -> Tensor:
    """This process' large crops `[B, 3, h, w]` -> the corrupted small pictures `[B, 3, h/4, w/4]` that the upsampler is given."""
    if size == 256:
        return blur(F.avg_pool2d(x_0, SCALE), 0.6, step)
    seeds = step.own([int(torch.randint(1 << 62, (), generator=step.generator)) for _ in range(step.batch)])
    return torch.stack([degrade(picture, seed) for picture, seed in zip(x_0, seeds, strict=True)])


def gaussian_kernel(sigma: float, taps: int = 3) -> Tensor:
    """`[taps, taps]`, summing to one."""
    line = torch.exp(-((torch.arange(taps) - taps // 2).float() ** 2) / (2 * sigma * sigma))
    kernel = torch.outer(line, line)
    return kernel / kernel.sum()


def _convolved(x: Tensor, kernel: Tensor) -> Tensor:
    """Pictures `[B, 3, h, w]` through one kernel, edges repeated."""
    half = kernel.shape[0] // 2
    weight = kernel.to(x)[None, None].expand(3, 1, -1, -1)
    return F.conv2d(F.pad(x, (half,) * 4, mode="replicate"), weight, groups=3)


def blur(low: Tensor, sigma: float, step: Step, probability: float = 0.5) -> Tensor:
    """Small pictures, half of them blurred: with and without, so that clean ones are met too."""
    chosen = step.own(torch.rand(step.batch, 1, 1, 1, generator=step.generator) < probability).to(low.device)
    return torch.where(chosen, _convolved(low, gaussian_kernel(sigma)), low)


def degrade(picture: Tensor, seed: int) -> Tensor:
    """One picture `[3, h, w]` -> `[3, h/4, w/4]`: blur, resize by 4, noise and JPEG, in random order and strength."""
    rng = random.Random(seed)
    x = picture[None]
    steps = ["blur", "resize", "noise"]
    rng.shuffle(steps)
    for name in steps:
        if name == "blur":
            x = _convolved(x, gaussian_kernel(rng.uniform(0.2, 1.5), 7))
        elif name == "resize":
            x = _resized(x, rng)
        elif rng.random() < 0.5:
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(rng.getrandbits(62)))
            x = x + noise.to(x) * rng.uniform(0.0, 0.06)
    if rng.random() < 0.5:
        x = _jpeg(x, rng.randint(60, 95))
    return x[0].clamp(-1, 1)


def _resized(x: Tensor, rng: random.Random) -> Tensor:
    height, width = x.shape[-2] // SCALE, x.shape[-1] // SCALE
    mode = rng.choice(("area", "bilinear", "bicubic"))
    if mode == "area":
        return F.interpolate(x, (height, width), mode="area")
    return F.interpolate(x, (height, width), mode=mode, antialias=True)


def _jpeg(x: Tensor, quality: int) -> Tensor:
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(x[0]).permute(1, 2, 0).cpu().numpy()).save(buffer, "JPEG", quality=quality)
    back = torch.from_numpy(np.asarray(Image.open(buffer)).copy()).permute(2, 0, 1)[None]
    return to_float(back).to(x)
