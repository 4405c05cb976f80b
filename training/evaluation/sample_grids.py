"""Sample grids, written while a network learns: what a person looks at before any figure."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn

from models.checkpoints.checkpoint import Checkpoint, build_empty
from models.diffusion.samplers import sampler_table, to_x_0
from models.diffusion.schedule import alphas_cumprod
from models.networks.clip import CLIP
from models.networks.upsampler import Upsampler
from models.pipeline import UnCLIP
from training.data.crops import Crops, ImageCrops, KeptCrops
from training.data.scene_cache import to_uint8
from training.losses.diffusion import resized
from training.scenes.solids.captions import caption
from training.scenes.solids.render import render
from training.scenes.solids.scene import MIXES, scene
from training.trainer.trainer import Step

COUNT = 12
Show = Callable[[nn.Module, Path], None]


def grid(rows: list[Tensor], path: Path) -> None:
    """Rows of equally many images `[N, 3, h, w]` in [-1, 1] as one PNG."""
    lines = [torch.cat(list(to_uint8(row.cpu())), dim=2) for row in rows]
    Image.fromarray(torch.cat(lines, dim=1).permute(1, 2, 0).numpy()).save(path)


def fresh_drawings(mix: str, device: str) -> tuple[Tensor, list[str]]:
    """Drawings of scenes that no training sees, and captions of them."""
    scenes = [scene(index, MIXES[mix], "fresh") for index in range(0, 2 * COUNT, 2)]
    return render(scenes, 64, device=device), [
        caption(s, random.Random(index)).text for index, s in enumerate(scenes)
    ]


def decoded(
    clip: CLIP, config: dict[str, Any], images: Tensor, captions: list[str], device: str
) -> Show:
    """Images, and beneath them what the decoder makes of their z_i and captions."""
    prior = build_empty("prior", config["prior"])  # a pipeline has one; it is not asked

    def show(decoder: nn.Module, path: Path) -> None:
        pipeline = UnCLIP(
            Checkpoint("shown", config, {"clip": clip, "prior": prior, "decoder": decoder}), device
        )
        grid(
            [resized(images, 64), decode(pipeline, images, captions, list(range(len(captions))))],
            path,
        )

    return show


@torch.inference_mode()
def decode(
    pipeline: UnCLIP, images: Tensor, captions: list[str], seeds: list[int], **parameters: Any
) -> Tensor:
    """Images `[B, 3, S, S]` through their own z_i and captions, and back: `[B, 3, 64, 64]`."""
    resolved = pipeline.resolve(size=64, **parameters)
    texts = [pipeline.caption_row(text, 0, resolved, prior=False) for text in captions]
    pipeline.draw(texts)
    rows = [
        pipeline.latent_row(replace(row.conditioning, z_i=z_i), seed, resolved)
        for row, z_i, seed in zip(texts, pipeline.clip.encode_image(images), seeds, strict=True)
        if row.conditioning is not None
    ]
    pipeline.draw(rows)
    return torch.stack([cast(Tensor, row.image) for row in rows])


@torch.inference_mode()
def upsample(upsampler: Upsampler, low: Tensor, size: int, defaults: dict[str, Any]) -> Tensor:
    """Small images `[B, 3, s, s]` -> `[B, 3, size, size]`, where size may be a crop's."""
    config = upsampler.config
    table = sampler_table(
        defaults["upsampler_sampler"], config.schedule, defaults["upsampler_num_inference_steps"]
    )
    kept = alphas_cumprod(config.schedule)
    x_t = torch.randn(len(low), 3, size, size, generator=torch.Generator().manual_seed(0)).to(low)
    noise = torch.Generator().manual_seed(1)
    prev = torch.zeros_like(x_t)
    before = torch.zeros_like(x_t)
    for t, (a, b, c, d, e) in zip(table.timesteps, table.coefficients.tolist(), strict=True):
        prediction = upsampler(x_t, torch.full((len(low),), t, device=low.device), low)
        x_0 = to_x_0(
            prediction,
            x_t,
            kept[t].sqrt().float(),
            (1 - kept[t]).sqrt().float(),
            config.prediction_type,
        ).clamp(-1, 1)
        x_t = (
            a * x_t
            + b * x_0
            + c * prev
            + d * torch.randn(x_t.shape, generator=noise).to(x_t)
            + e * before
        )
        prev, before = x_0, prev
    return x_t


def upsampled(crops: Crops | KeptCrops | ImageCrops, defaults: dict[str, Any], device: str) -> Show:
    """Crops, their corrupted small versions enlarged by nearest neighbour, and what the upsampler makes of those."""
    step = Step(0, COUNT, torch.device(device), torch.Generator().manual_seed(0))
    x_0, low = crops.pairs(step)

    def show(upsampler: nn.Module, path: Path) -> None:
        drawn = upsample(cast(Upsampler, upsampler), low, x_0.shape[-1], defaults)
        grid([x_0, low.repeat_interleave(4, 2).repeat_interleave(4, 3), drawn], path)

    return show
