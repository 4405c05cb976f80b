"""Stages of the networks that start from the frozen joint space."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.networks.decoder import Decoder, DecoderConfig
from models.networks.image_tower import ImageTower, ImageTowerConfig
from models.networks.matting import MattingConfig, MattingNetwork
from models.networks.priors.diffusion import DiffusionPrior, DiffusionPriorConfig
from models.networks.upsampler import Upsampler, UpsamplerConfig
from training.data.illustrated.pretrained import fill_trunk, read_lite0
from training.data.illustrated.scene_crops import build_crops, build_mattes, load_crops
from training.data.illustrated.scene_pool import build_small_features
from training.evaluation.illustrated_grids import draw_decoder_grid
from training.evaluation.judge import Judge
from training.illustrated.pool_stages import build_scene_pool
from training.illustrated.presets import EMBED_DIM, SETS
from training.illustrated.run import IllustratedRun
from training.losses.diffusion import upsampler_loss
from training.losses.illustrated import (
    embed_features,
    illustrated_decoder_loss,
    illustrated_prior_loss,
)
from training.losses.judge import pool_judge_loss
from training.losses.matting import matting_loss

MATTE_PX = 256
GRID_EVERY_S = 900.0


def train_decoder(run: IllustratedRun, limit_s: float) -> None:
    """Train the decoder."""
    torch.manual_seed(1)
    decoder = Decoder(DecoderConfig(**run.preset.networks["decoder"])).to(
        run.device, memory_format=torch.channels_last
    )  # type: ignore[call-overload]
    pool = run.pool("scenes")

    last_grid = time.monotonic()

    def show(network: nn.Module, path: Path) -> None:
        nonlocal last_grid
        if time.monotonic() - last_grid < GRID_EVERY_S:
            return
        last_grid = time.monotonic()
        assert isinstance(network, Decoder)
        draw_decoder_grid(network, run.clip, pool, path)

    run.train(
        "decoder",
        decoder,
        illustrated_decoder_loss(decoder, run.clip, run.mix(pool)),
        limit_s,
        show,
    )


def train_prior(run: IllustratedRun, limit_s: float) -> None:
    """Train the diffusion prior."""
    torch.manual_seed(2)
    prior = DiffusionPrior(DiffusionPriorConfig(**run.preset.networks["prior"]))
    pool = run.pool("scenes")
    features = pool.arrays.feature_batch(torch.arange(min(len(pool), 4000))).to(run.device)
    sample = embed_features(run.clip, features).cpu()
    prior.clip_mean.copy_(sample.mean(0))
    prior.clip_std.copy_(sample.std(0).clamp(min=1e-4))
    prior = prior.to(run.device)
    loss = illustrated_prior_loss(
        prior, run.clip, run.mix(pool), run.space.photographs, run.class_scenes(pool)
    )
    run.train("prior", prior, loss, limit_s)


def train_upsampler(run: IllustratedRun, size: int, limit_s: float) -> None:
    """Train the upsampler to 256 or 1024 pixels."""
    name = f"upsampler_{size}"
    torch.manual_seed(size)
    upsampler = Upsampler(UpsamplerConfig(**run.preset.networks[name])).to(
        run.device, memory_format=torch.channels_last
    )  # type: ignore[call-overload]
    path = run.folder / f"crops-{size}.npy"
    build_crops(path, run.world, run.art, size, run.preset.crops, per_scene=2 if size == 256 else 8)
    run.train(name, upsampler, upsampler_loss(upsampler, load_crops(path, size)), limit_s)


def train_matting(run: IllustratedRun, limit_s: float) -> None:
    """Train the matting network."""
    torch.manual_seed(3)
    network = MattingNetwork(MattingConfig()).to(run.device)
    path = run.folder / f"mattes-{MATTE_PX}.npy"
    build_mattes(path, run.world, run.art, MATTE_PX, run.preset.mattes)
    run.train("matting", network, matting_loss(network, np.load(path, mmap_mode="r")), limit_s)


def train_judge(run: IllustratedRun, limit_s: float) -> None:
    """Train the judge on both pools."""
    tower = ImageTower(ImageTowerConfig(EMBED_DIM))
    fill_trunk(tower.trunk, read_lite0(run.art))
    for name, folder in (("clip", "pool-clip"), ("scenes", "pool-scenes")):
        build_small_features(run.folder / folder, run.pool(name).arrays, tower)
    torch.manual_seed(4)
    judge = Judge(len(run.full_world.names), len(SETS))
    run.train(
        "judge",
        judge,
        pool_judge_loss(judge, [run.pool("clip"), run.pool("scenes")]),
        limit_s,
    )


def train_generator(run: IllustratedRun, limit_s: float) -> None:
    """Build the pool, then train prior and decoder, a fifth and the rest of the time."""
    end = time.monotonic() + limit_s
    build_scene_pool(run)
    train_prior(run, 0.2 * (end - time.monotonic()))
    train_decoder(run, end - time.monotonic())


def train_rest(run: IllustratedRun, limit_s: float) -> None:
    """Train all that is small, one after the other."""
    end = time.monotonic() + limit_s
    for stage in (train_prior, train_judge, train_matting):
        stage(run, end - time.monotonic())
    for size in (256, 1024):
        train_upsampler(run, size, end - time.monotonic())
