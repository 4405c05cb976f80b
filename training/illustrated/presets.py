"""Presets of the illustrated world: sizes of its networks, and how long each learns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from training.trainer.plan import Plan

EMBED_DIM = 384
CONTEXT_DIM = 256
SETS = ("noto", "twemoji", "flat", "3d")


@dataclass(frozen=True)
class IllustratedPreset:
    """One way to train the illustrated world. `tier` names the things that scenes show; shards hold
    5,000 scenes each."""

    tier: str
    mix: str
    clip_shards: int
    shards: int
    solid_share: float  # how often decoder and prior learn the solids of before
    solid_shards: int
    crops: int  # of each upsampler
    mattes: int
    networks: dict[str, dict[str, Any]]
    plans: dict[str, Plan]


def _unet(
    channels: list[int], in_channels: int, attention: list[bool], **rest: Any
) -> dict[str, Any]:
    sizes = {
        "in_channels": in_channels,
        "out_channels": 3,
        "channels": channels,
        "attention": attention,
        "blocks": 1,
    }
    return sizes | {"norm_groups": 16, "patch_size": 4, "head_channels": 32} | rest


NETWORKS: dict[str, dict[str, Any]] = {
    "clip": {"embed_dim": EMBED_DIM, "text_tower": {}, "image_tower": {}},
    "prior": {
        "embed_dim": EMBED_DIM,
        "text_width": EMBED_DIM,
        "width": 256,
        "layers": 6,
        "heads": 8,
    },
    "decoder": {
        "unet": _unet(
            [96, 160, 256], 3, [False, True, True], time_embed_dim=384, context_dim=CONTEXT_DIM
        ),
        "embed_dim": EMBED_DIM,
        "text_width": EMBED_DIM,
    },
    "upsampler_256": {"unet": _unet([64, 96, 128], 6, [False] * 3, time_embed_dim=128)},
    "upsampler_1024": {
        "unet": _unet([48, 64], 6, [False] * 2, time_embed_dim=128),
        "schedule": "linear",
    },
}

CPU = IllustratedPreset(
    tier="popular",
    mix="simple",
    clip_shards=8,
    shards=12,
    solid_share=0.06,
    solid_shards=3,
    crops=6000,
    mattes=1500,
    networks=NETWORKS,
    plans={
        "clip": Plan(steps=320, batch=1, lr=3e-4, warmup=50, ema=0.995, bf16=True),
        "image_head": Plan(steps=1_300, batch=768, lr=1e-3, warmup=50, ema=0.99),
        "decoder": Plan(
            steps=60_000,
            batch=96,
            lr=8e-4,
            warmup=200,
            cooldown=0.35,
            muon=True,
            ema=0.999,
            bf16=True,
        ),
        "prior": Plan(steps=6_000, batch=128, lr=6e-4, warmup=200, ema=0.998, bf16=True),
        "upsampler_256": Plan(steps=5_000, batch=16, lr=1e-3, muon=True, ema=0.998, bf16=True),
        "upsampler_1024": Plan(steps=5_000, batch=12, lr=1e-3, muon=True, ema=0.998, bf16=True),
        "matting": Plan(steps=2_000, batch=12, lr=1e-3, ema=0.995, bf16=True),
        "judge": Plan(steps=3_000, batch=128, lr=1e-3, ema=0.998, bf16=True),
    },
)
GPU = replace(
    CPU,
    tier="all",
    mix="full",
    clip_shards=16,
    shards=60,
    solid_share=0.1,
    solid_shards=10,
    crops=20_000,
    mattes=6000,
    plans={
        "clip": Plan(steps=3_000, batch=1, lr=3e-4, warmup=100, ema=0.998),
        "image_head": Plan(steps=6_000, batch=2048, lr=1e-3, warmup=50, ema=0.995),
        # Two parts of 13 minutes of an H100 are about this many steps.
        "decoder": Plan(
            steps=16_000, batch=512, lr=1.2e-3, warmup=300, cooldown=0.4, muon=True, ema=0.9995
        ),
        "prior": Plan(steps=4_000, batch=256, lr=8e-4, warmup=200, ema=0.999),
        "upsampler_256": Plan(steps=20_000, batch=64, lr=1e-3, muon=True),
        "upsampler_1024": Plan(steps=10_000, batch=64, lr=1e-3, muon=True),
        "matting": Plan(steps=8_000, batch=48, lr=1e-3, ema=0.998),
        "judge": Plan(steps=15_000, batch=256, lr=1e-3),
    },
)
PRESETS = {"cpu": CPU, "gpu": GPU}
