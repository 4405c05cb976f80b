"""Presets: what is drawn, which networks learn from it, and for how long. `cpu` takes hours on 2 cores, `gpu` under 25 minutes.

Batches and learning rates are for AdamW with a cosine decay, where a plan does not say otherwise. What a preset scored stands in
the CARD.md that `bake` writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from training.loop import Plan


@dataclass(frozen=True)
class Preset:
    """One way to train a whole stack. `pool` and `crops` count pictures drawn once and kept; `config` is the checkpoint's
    config.json without its format; `plans` has one entry a network of it, and the reader's."""

    mix: str
    pool: int
    crops: int
    config: dict[str, Any]
    plans: dict[str, Plan]


_EMBED, _TEXT = 128, 128
_UNET = {"out_channels": 3, "norm_groups": 16, "blocks": 1, "patch_size": 4, "head_channels": 32}
_DEFAULTS = {
    "size": 256,
    "prior": "diffusion",
    "prior_sampler": "ddpm",
    "prior_num_candidates": 2,
    "prior_num_inference_steps": 16,
    "prior_guidance_scale": 1.0,
    "prior_temperature": 1.0,
    "prior_top_p": 1.0,
    "negative_prompt": "",
    "sampler": "dpm++",
    "eta": 0.0,
    "decoder_num_inference_steps": 16,
    "decoder_guidance_scale": 2.0,
    "upsampler_sampler": "ddim",
    "upsampler_num_inference_steps": 4,
}
# The networks of the embedded default are chosen for what a user's CPU can sample: a 4x4 stem, few channels.
_SMALL = {
    "name": "drawn-world",
    "clip": {
        "embed_dim": _EMBED,
        "vision_cfg": {"layers": [1, 2, 2, 1], "width": 32, "head_width": 64, "image_size": 64},
        "text_cfg": {"width": _TEXT, "heads": 4, "layers": 4, "context_length": 77, "vocab_size": 49408},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
    },
    "prior": {"embed_dim": _EMBED, "text_width": _TEXT, "width": 192, "layers": 6, "heads": 6},
    # How many components keep 99 % of the variance of z_i is seen once CLIP is trained (training.run).
    "ar_prior": {"embed_dim": _EMBED, "text_width": _TEXT, "width": 192, "layers": 6, "heads": 6},
    "decoder": {
        "unet": _UNET
        | {"in_channels": 3, "channels": [64, 128, 192], "attention": [False, True, True], "time_embed_dim": 256, "context_dim": _TEXT},
        "embed_dim": _EMBED,
        "text_width": _TEXT,
    },
    "upsampler_256": {
        "unet": _UNET | {"in_channels": 6, "channels": [48, 64, 96], "attention": [False, False, False], "time_embed_dim": 128},
    },
    "upsampler_1024": {
        "unet": _UNET | {"in_channels": 6, "channels": [48, 48], "attention": [False, False], "time_embed_dim": 128},
        "schedule": "linear",
    },
    "defaults": _DEFAULTS,
}

PRESETS: dict[str, Preset] = {
    # Objects and relations first: better a part of the world right than all of it blurred.
    "cpu": Preset(
        mix="objects",
        pool=49_152,
        crops=2048,
        config=_SMALL,
        plans={
            "reader": Plan(steps=1700, batch=64, lr=2e-3),
            "clip": Plan(steps=1500, batch=128, lr=1e-3, ema=0.995, weight_decay=0.05),
            "prior": Plan(steps=1800, batch=64, lr=1e-3, ema=0.998, weight_decay=0.06),
            "ar_prior": Plan(steps=1000, batch=64, lr=1e-3, ema=0.998, weight_decay=0.04),
            "decoder": Plan(steps=16_500, batch=64, lr=7e-4, ema=0.998, cooldown=0.6, muon=True, bf16=True),
            "upsampler_256": Plan(steps=1300, batch=16, lr=1e-3, ema=0.995),
            "upsampler_1024": Plan(steps=1500, batch=16, lr=1e-3, ema=0.995),
        },
    ),
    "gpu": Preset(
        mix="whole",
        pool=393_216,
        crops=32_768,
        config=_SMALL,
        plans={
            "reader": Plan(steps=6000, batch=256, lr=2e-3),
            "clip": Plan(steps=8000, batch=512, lr=1e-3, ema=0.999, weight_decay=0.05),
            "prior": Plan(steps=15_000, batch=512, lr=1e-3, weight_decay=0.06),
            "ar_prior": Plan(steps=15_000, batch=512, lr=1e-3, weight_decay=0.04),
            "decoder": Plan(steps=25_000, batch=256, lr=1e-3, ema=0.9995),
            "upsampler_256": Plan(steps=8000, batch=128, lr=1e-3),
            "upsampler_1024": Plan(steps=6000, batch=128, lr=1e-3),
        },
    ),
}
