"""Sample grids, written during training."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn

from models.checkpoints.checkpoint import Checkpoint, build_empty
from models.diffusion.samplers import sampler_coefficients, to_x_0
from models.diffusion.schedule import alphas_cumprod
from models.networks.clip import CLIP
from models.networks.upsampler import Upsampler
from models.pipeline import UnCLIP
from training.data.crops import CropSource
from training.evaluation.solids.generation import stack_images
from training.losses.diffusion import resize
from training.scenes.pixels import to_uint8
from training.scenes.solids.captions import draw_caption
from training.scenes.solids.render import render
from training.scenes.solids.scene import MIXES, draw_scene
from training.trainer.step import Step
from training.trainer.trainer import SaveSamples

COUNT = 12


def save_grid(rows: list[Tensor], path: Path) -> None:
    """Save rows of equally many images `[N, 3, h, w]` in [-1, 1] as one PNG."""
    lines = [torch.cat(list(to_uint8(row.cpu())), dim=2) for row in rows]
    Image.fromarray(torch.cat(lines, dim=1).permute(1, 2, 0).numpy()).save(path)


def render_test_scenes(mix: str, device: str) -> tuple[Tensor, list[str]]:
    """Return COUNT renderings of test scenes, `[COUNT, 3, 64, 64]`, and their captions."""
    scenes = [draw_scene(index, MIXES[mix], "test") for index in range(0, 2 * COUNT, 2)]
    captions = [
        draw_caption(scene, random.Random(index)).text for index, scene in enumerate(scenes)
    ]
    return render(scenes, 64, device=device), captions


def save_decoded(
    clip: CLIP, config: dict[str, Any], images: Tensor, captions: list[str], device: str
) -> SaveSamples:
    """Return a function that saves images, and below what a decoder makes of their z_i."""
    # A pipeline needs a prior, which is not used here.
    prior = build_empty("prior", config["prior"])
    seeds = list(range(len(captions)))

    def save(decoder: nn.Module, path: Path) -> None:
        networks = {"clip": clip, "prior": prior, "decoder": decoder}
        pipeline = UnCLIP(Checkpoint("samples", config, networks), device)
        reconstructed = reconstruct(pipeline, images, captions, seeds)
        save_grid([resize(images, 64), reconstructed], path)

    return save


@torch.inference_mode()
def reconstruct(
    pipeline: UnCLIP, images: Tensor, captions: list[str], seeds: list[int], **parameters: Any
) -> Tensor:
    """Encode images `[B, 3, S, S]` to z_i and decode these with captions, `[B, 3, 64, 64]`."""
    resolved = pipeline.resolve(size=64, **parameters)
    texts = [pipeline.prompt_row(text, 0, resolved, prior=False) for text in captions]
    pipeline.run(texts)
    rows = [
        pipeline.latent_row(replace(row.conditioning, z_i=z_i), seed, resolved)
        for row, z_i, seed in zip(texts, pipeline.clip.encode_image(images), seeds, strict=True)
        if row.conditioning is not None
    ]
    pipeline.run(rows)
    return stack_images(rows)


@torch.inference_mode()
def upsample(upsampler: Upsampler, low: Tensor, size: int, defaults: dict[str, Any]) -> Tensor:
    """Enlarge images `[B, 3, s, s]` to `[B, 3, size, size]`, where `size` may be a crop's."""
    config = upsampler.config
    table = sampler_coefficients(
        defaults["upsampler_sampler"], config.schedule, defaults["upsampler_num_inference_steps"]
    )
    alphas = alphas_cumprod(config.schedule)
    shape = (len(low), 3, size, size)
    x_t = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(low)
    noise = torch.Generator().manual_seed(1)
    previous = torch.zeros_like(x_t)
    before = torch.zeros_like(x_t)
    for t, (a, b, c, d, e) in zip(table.timesteps, table.values.tolist(), strict=True):
        prediction = upsampler(x_t, torch.full((len(low),), t, device=low.device), low)
        alpha = alphas[t].sqrt().float()
        sigma = (1 - alphas[t]).sqrt().float()
        x_0 = to_x_0(prediction, x_t, alpha, sigma, config.prediction_type).clamp(-1, 1)
        fresh = torch.randn(x_t.shape, generator=noise).to(x_t)
        x_t = a * x_t + b * x_0 + c * previous + d * fresh + e * before
        before = previous
        previous = x_0
    return x_t


def save_upsampled(crops: CropSource, defaults: dict[str, Any], device: str) -> SaveSamples:
    """Return a function that saves crops, their small versions, and those upsampled."""
    step = Step(0, COUNT, torch.device(device), torch.Generator().manual_seed(0))
    x_0, low = crops.pairs(step)

    def save(upsampler: nn.Module, path: Path) -> None:
        upsampled = upsample(cast(Upsampler, upsampler), low, x_0.shape[-1], defaults)
        enlarged = low.repeat_interleave(4, 2).repeat_interleave(4, 3)
        save_grid([x_0, enlarged, upsampled], path)

    return save
