"""A checkpoint with random weights and networks as small as possible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

UNET: dict[str, Any] = {
    "out_channels": 3,
    "time_embed_dim": 16,
    "norm_groups": 4,
    "blocks": 1,
    "channels": [8, 8],
}
DECODER_UNET = UNET | {
    "in_channels": 3,
    "patch_size": 8,
    "context_dim": 8,
    "head_channels": 8,
    "attention": [False, True],
}
UPSAMPLER_UNET = UNET | {"in_channels": 6, "patch_size": 8, "attention": [False, False]}
NETWORKS: dict[str, dict[str, Any]] = {
    "clip": {
        "embed_dim": 16,
        "vision_cfg": {
            "layers": 1,
            "width": 16,
            "head_width": 8,
            "patch_size": 32,
            "image_size": 64,
        },
        "text_cfg": {
            "width": 16,
            "heads": 2,
            "layers": 1,
            "context_length": 77,
            "vocab_size": 49408,
        },
    },
    "prior": {"embed_dim": 16, "text_width": 16, "width": 16, "layers": 1, "heads": 2},
    "decoder": {"unet": DECODER_UNET, "embed_dim": 16, "text_width": 16},
    "pca": {"embed_dim": 16, "components": 6},
    "ar_prior": {
        "embed_dim": 16,
        "text_width": 16,
        "width": 16,
        "layers": 2,
        "heads": 2,
        "components": 6,
        "buckets": 16,
    },
    "upsampler_256": {"unet": UPSAMPLER_UNET},
    "upsampler_1024": {"unet": UPSAMPLER_UNET},
}
DEFAULTS = {
    "size": 256,
    "prior": "diffusion",
    "prior_sampler": "dpm++",
    "prior_num_candidates": 2,
    "prior_num_inference_steps": 5,
    "prior_guidance_scale": 1.5,
    "negative_prompt": "",
    "sampler": "dpm++",
    "eta": 0.0,
    "decoder_num_inference_steps": 6,
    "decoder_guidance_scale": 2.0,
    "upsampler_sampler": "ddim",
    "upsampler_num_inference_steps": 2,
}


def save_tiny_checkpoint(folder: Path) -> None:
    """Write the checkpoint to `folder`."""
    import torch

    from models.checkpoints.checkpoint import build, save

    torch.manual_seed(0)
    networks = {name: build(name, config) for name, config in NETWORKS.items()}
    for network in networks.values():
        for parameter in network.parameters():
            # Outputs initialised with zeros would hide what the layers before them compute.
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    config = {"name": "tiny", **NETWORKS, "defaults": DEFAULTS}
    save(folder, config, networks, "# tiny\n\nRandom weights, for tests.\n")
