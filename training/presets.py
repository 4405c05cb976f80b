"""Presets of `python -m training`.

`cpu` takes hours on 2 cores, `gpu` about 20 minutes of an H100. `paper` is table 3 of the unCLIP
paper, and `tune` continues a checkpoint; both need images by --data. A preset's scores are in the
CARD.md that `python -m training.export` writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from training.losses.diffusion import DROP_TEXT
from training.trainer.plan import Plan


@dataclass(frozen=True)
class Preset:
    """One way to train a whole pipeline.

    `config` is the checkpoint's config.json without its format, empty if a checkpoint is
    needed. `plans` has an entry for each network to train. Without a `mix` there are no synthetic
    scenes."""

    config: dict[str, Any]
    plans: dict[str, Plan]
    mix: str | None = None  # see scenes.solids.scene.MIXES
    scenes: int = 0  # rendered once
    crops: int = 0  # rendered once, for each upsampler
    rest: int = 0  # scenes of the mix "rest", if any half of each of the decoder's batches
    drop_text: float = DROP_TEXT  # share of captions that the decoder's training drops


_EMBED = 128
_TEXT = 128
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


def _upsampler(*channels: int, **rest: str) -> dict[str, Any]:
    """Return the config of a small upsampler with these channels by level."""
    return {
        "unet": _UNET
        | {
            "in_channels": 6,
            "channels": [*channels],
            "attention": [False] * len(channels),
            "time_embed_dim": 128,
        }
    } | rest


# Small enough to sample on a CPU: a 4x4 stem and few channels.
_SMALL: dict[str, Any] = {
    "name": "drawn-world",
    "clip": {
        "embed_dim": _EMBED,
        "vision_cfg": {"layers": [1, 2, 2, 1], "width": 32, "head_width": 64, "image_size": 64},
        "text_cfg": {
            "width": _TEXT,
            "heads": 4,
            "layers": 4,
            "context_length": 77,
            "vocab_size": 49408,
        },
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
    },
    "prior": {"embed_dim": _EMBED, "text_width": _TEXT, "width": 192, "layers": 6, "heads": 6},
    # The number of components that keep 99 % of the variance follows from CLIP's training.
    "ar_prior": {"embed_dim": _EMBED, "text_width": _TEXT, "width": 192, "layers": 6, "heads": 6},
    "decoder": {
        "unet": _UNET
        | {
            "in_channels": 3,
            "channels": [64, 128, 192],
            "attention": [False, True, True],
            "time_embed_dim": 256,
            "context_dim": _TEXT,
        },
        "embed_dim": _EMBED,
        "text_width": _TEXT,
    },
    "upsampler_256": _upsampler(48, 64, 96),
    "upsampler_1024": _upsampler(48, 48, schedule="linear"),
    "defaults": _DEFAULTS,
}

# For minutes of a GPU: a wider decoder and upsamplers, and a larger image encoder. After that much
# training the decoder needs no guidance: of 64 captions of each type as many were right without as
# with a scale of 2, for half of the work. The upsamplers' second step is the last that improves
# anything: 34.4 dB at 256² with two steps, 34.0 dB with four.
_WIDE = _SMALL | {
    "defaults": _DEFAULTS | {"decoder_guidance_scale": 1.0, "upsampler_num_inference_steps": 2},
    "clip": _SMALL["clip"]
    | {
        "vision_cfg": {
            "layers": 6,
            "width": 192,
            "head_width": 64,
            "patch_size": 8,
            "image_size": 64,
        }
    },
    "decoder": {
        "unet": _UNET
        | {
            "in_channels": 3,
            "channels": [128, 192],
            "blocks": 2,
            "attention": [True, True],
            "time_embed_dim": 256,
            "context_dim": _TEXT,
        },
        "embed_dim": _EMBED,
        "text_width": _TEXT,
    },
    "upsampler_256": _upsampler(64, 96, 96),
    "upsampler_1024": _upsampler(64, 64, schedule="linear"),
}

# Table 3 (paper, appendix C) and the CLIP of its §2 (ViT-H/16 at 256²), as far as our networks have
# these parts. This project's choice, since the paper does not say: warm-up and decay of the
# learning rate, and CLIP's training except for its learning rate. Differences: all networks
# read CLIP's own text encoder with a context of 256 tokens, in place of text encoders of 24 layers
# and width 2048; CLIP learns by AdamW without SAM; z_i is standardised, not multiplied by 17.2; the
# number of principal components is that of 99 % of the variance (319 in the paper).
_LEVELS = [1, 2, 3, 4]
_ADAM: dict[str, Any] = {"warmup": 2000, "weight_decay": 0.0, "betas": (0.9, 0.999), "ema": 0.9999}
_ADM = {"blocks": 3, "head_channels": 64, "norm_groups": 32, "dropout": 0.1}
_PAPER_TEXT = {"embed_dim": 1024, "text_width": 1024, "context_length": 256}
_PAPER = {
    "name": "unclip-table-3",
    "clip": {
        "embed_dim": 1024,
        "vision_cfg": {
            "layers": 32,
            "width": 1280,
            "head_width": 80,
            "patch_size": 16,
            "image_size": 256,
        },
        "text_cfg": {
            "width": 1024,
            "heads": 16,
            "layers": 24,
            "context_length": 256,
            "vocab_size": 49408,
        },
    },
    "prior": _PAPER_TEXT | {"width": 2048, "layers": 24, "heads": 32},
    "ar_prior": _PAPER_TEXT | {"width": 1664, "layers": 24, "heads": 26, "buckets": 1024},
    "decoder": {
        "unet": _ADM
        | {
            "in_channels": 3,
            "out_channels": 6,  # three of a learned variance
            "channels": [512 * n for n in _LEVELS],
            "attention": [False, True, True, True],  # at 32², 16² and 8²
            "time_embed_dim": 2048,
            "context_dim": 2048,
        },
        "embed_dim": 1024,
        "text_width": 1024,
        "prediction_type": "epsilon",
    },
    "upsampler_256": {
        "unet": _ADM
        | {
            "in_channels": 6,
            "out_channels": 3,
            "channels": [320 * n for n in _LEVELS],
            "attention": [False] * 4,
            "time_embed_dim": 1280,
        },
        "prediction_type": "epsilon",
    },
    "upsampler_1024": {
        "unet": _ADM
        | {
            "in_channels": 6,
            "out_channels": 3,
            "channels": [192 * n for n in (1, 1, 2, 2, 4, 4)],
            "blocks": 2,
            "dropout": 0.0,
            "attention": [False] * 6,
            "time_embed_dim": 768,
        },
        "schedule": "linear",
        "prediction_type": "epsilon",
    },
    "defaults": _DEFAULTS
    | {
        "prior_num_inference_steps": 64,
        "sampler": "ddpm",
        "decoder_num_inference_steps": 250,
        "upsampler_num_inference_steps": 27,
    },
}

PRESETS: dict[str, Preset] = {
    # Objects and relations first: better some scenes right than all blurred.
    "cpu": Preset(
        mix="objects",
        rest=24_576,
        scenes=49_152,
        crops=2048,
        config=_SMALL,
        plans={
            "classifier": Plan(steps=1700, batch=64, lr=2e-3),
            "clip": Plan(steps=1500, batch=128, lr=1e-3, ema=0.995, weight_decay=0.05),
            "prior": Plan(steps=1800, batch=64, lr=1e-3, ema=0.998, weight_decay=0.06),
            "ar_prior": Plan(steps=1000, batch=64, lr=1e-3, ema=0.998, weight_decay=0.04),
            "decoder": Plan(
                steps=19_900, batch=64, lr=7e-4, ema=0.998, cooldown=0.6, muon=True, bf16=True
            ),
            "upsampler_256": Plan(steps=1300, batch=16, lr=1e-3, ema=0.995),
            "upsampler_1024": Plan(steps=1500, batch=16, lr=1e-3, ema=0.995),
        },
    ),
    "gpu": Preset(
        mix="whole",
        scenes=524_288,
        crops=65_536,
        config=_WIDE,
        plans={
            "classifier": Plan(steps=6000, batch=1024, lr=2e-3),
            "clip": Plan(steps=5000, batch=2048, lr=1e-3, warmup=500, weight_decay=0.05),
            "prior": Plan(steps=15_000, batch=1024, lr=1e-3, weight_decay=0.06),
            "ar_prior": Plan(
                steps=1800,
                batch=48,
                lr=1.5e-3,
                warmup=50,
                ema=0.997,
                weight_decay=0.04,
                cooldown=0.8,
                muon=True,
            ),
            "decoder": Plan(
                steps=3159, batch=1024, lr=1.2e-3, warmup=300, ema=0.9995, cooldown=0.6, muon=True
            ),
            "upsampler_256": Plan(steps=10_000, batch=512, lr=1e-3, ema=0.9995),
            "upsampler_1024": Plan(steps=8000, batch=512, lr=1e-3, ema=0.9995),
        },
    ),
    "paper": Preset(
        config=_PAPER,
        drop_text=0.5,
        plans={
            "clip": Plan(
                steps=600_000,
                batch=4096,
                lr=3e-4,
                warmup=2000,
                weight_decay=0.2,
                betas=(0.9, 0.98),
                eps=1e-6,
                ema=0.9999,
            ),
            "prior": Plan(
                steps=600_000,
                batch=4096,
                lr=1.1e-4,
                warmup=2000,
                weight_decay=6e-2,
                betas=(0.9, 0.96),
                eps=1e-6,
                ema=0.9999,
                sharded=True,
            ),
            "ar_prior": Plan(
                steps=1_000_000,
                batch=4096,
                lr=1.6e-4,
                warmup=2000,
                weight_decay=4e-2,
                betas=(0.9, 0.91),
                eps=1e-10,
                ema=0.999,
                sharded=True,
            ),
            "decoder": Plan(steps=800_000, batch=2048, lr=1.2e-4, **_ADAM, sharded=True),
            "upsampler_256": Plan(steps=1_000_000, batch=1024, lr=1.2e-4, **_ADAM),
            "upsampler_1024": Plan(steps=1_000_000, batch=512, lr=1.0e-4, **_ADAM),
        },
    ),
    # Few and small steps from a checkpoint. LoRA uses ten times the learning rate.
    "tune": Preset(
        config={},
        plans={
            "clip": Plan(steps=2000, batch=64, lr=1e-5),
            "prior": Plan(steps=2000, batch=32, lr=1e-4),
            "ar_prior": Plan(steps=2000, batch=32, lr=1e-4),
            "decoder": Plan(steps=2000, batch=32, lr=1e-4),
            "upsampler_256": Plan(steps=2000, batch=16, lr=1e-4),
            "upsampler_1024": Plan(steps=2000, batch=16, lr=1e-4),
        },
    ),
}
