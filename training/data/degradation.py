"""Degraded small images, which the upsamplers enlarge.

64² to 256²: Gaussian blur of 3 pixels with sigma 0.6 (SR3). 256² to 1024²: a BSR degradation (Zhang
et al. 2021, arXiv 2103.14006) of blur, resizing, noise and JPEG in random order and strength (paper
§2.1).
"""

from __future__ import annotations

import io
import random

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from training.scenes.pixels import to_float, to_uint8
from training.trainer.step import Step

SCALE = 4


def degrade_crops(x_0: Tensor, size: int, step: Step) -> Tensor:
    """Return degraded small versions `[B, 3, h/4, w/4]` of this process' crops `[B, 3, h, w]`.

    `size` is that of the upsampler's images, 256 or 1024."""
    if size == 256:
        return blur_some(F.avg_pool2d(x_0, SCALE), 0.6, step)
    seeds = step.local(
        [int(torch.randint(1 << 62, (), generator=step.generator)) for _ in range(step.batch)]
    )
    return torch.stack([degrade(image, seed) for image, seed in zip(x_0, seeds, strict=True)])


def gaussian_kernel(sigma: float, taps: int = 3) -> Tensor:
    """Return a kernel `[taps, taps]` whose sum is 1."""
    line = torch.exp(-((torch.arange(taps) - taps // 2).float() ** 2) / (2 * sigma * sigma))
    kernel = torch.outer(line, line)
    return kernel / kernel.sum()


def blur_some(images: Tensor, sigma: float, step: Step, probability: float = 0.5) -> Tensor:
    """Blur each image `[B, 3, h, w]` with a probability, so that some stay clean."""
    chosen = step.uniform(1, 1, 1) < probability
    return torch.where(chosen, _convolve(images, gaussian_kernel(sigma)), images)


def degrade(image: Tensor, seed: int) -> Tensor:
    """Degrade one image `[3, h, w]` to `[3, h/4, w/4]`, in random order and strength."""
    rng = random.Random(seed)
    x = image[None]
    operations = ["blur", "resize", "noise"]
    rng.shuffle(operations)
    for operation in operations:
        if operation == "blur":
            x = _convolve(x, gaussian_kernel(rng.uniform(0.2, 1.5), 7))
        elif operation == "resize":
            x = _resize(x, rng)
        elif rng.random() < 0.5:
            generator = torch.Generator().manual_seed(rng.getrandbits(62))
            noise = torch.randn(x.shape, generator=generator)
            x = x + noise.to(x) * rng.uniform(0.0, 0.06)
    if rng.random() < 0.5:
        x = _compress(x, rng.randint(60, 95))
    return x[0].clamp(-1, 1)


def _convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve images `[B, 3, h, w]` with one kernel, edges repeated."""
    half = kernel.shape[0] // 2
    weight = kernel.to(x)[None, None].expand(3, 1, -1, -1)
    return F.conv2d(F.pad(x, (half,) * 4, mode="replicate"), weight, groups=3)


def _resize(x: Tensor, rng: random.Random) -> Tensor:
    size = (x.shape[-2] // SCALE, x.shape[-1] // SCALE)
    mode = rng.choice(("area", "bilinear", "bicubic"))
    return F.interpolate(x, size, mode=mode, antialias=mode != "area")


def _compress(x: Tensor, quality: int) -> Tensor:
    """Encode an image `[1, 3, h, w]` as JPEG and decode it."""
    buffer = io.BytesIO()
    image = Image.fromarray(to_uint8(x[0]).permute(1, 2, 0).cpu().numpy())
    image.save(buffer, "JPEG", quality=quality)
    decoded = torch.from_numpy(np.asarray(Image.open(buffer)).copy()).permute(2, 0, 1)[None]
    return to_float(decoded).to(x)
