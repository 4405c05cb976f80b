"""Plain DDIM sampling of one network at a time, for grids and figures while it learns."""

from __future__ import annotations

import torch
from torch import Tensor

from models.diffusion.schedule import alphas_cumprod, spaced_timesteps
from models.networks.clip import TextEncoding
from models.networks.decoder import Decoder
from models.networks.priors.diffusion import DiffusionPrior
from models.networks.two_tower_clip import TwoTowerCLIP
from models.networks.upsampler import Upsampler


def encode_prompts(clip: TwoTowerCLIP, prompts: list[str]) -> TextEncoding:
    """Return the prompts' encodings in fp32."""
    encoding = clip.encode_text(clip.tokenize(prompts)[0])
    return TextEncoding(encoding.z_t, encoding.hidden.float(), encoding.mask)


@torch.inference_mode()
def sample_decoder(
    decoder: Decoder, z_i: Tensor, text: TextEncoding, steps: int = 12, seed: int = 0
) -> Tensor:
    """Return images `[B, 3, 64, 64]` in [-1, 1] from embeddings `[B, D]` and captions, without
    guidance."""
    size = decoder.config.image_size
    x_t = torch.randn(len(z_i), 3, size, size, generator=torch.Generator().manual_seed(seed)).to(
        z_i.device
    )
    keep = torch.zeros(len(z_i), dtype=torch.bool, device=z_i.device)
    alphas, timesteps = alphas_cumprod(decoder.config.schedule).float(), spaced_timesteps(steps)
    for step, t in enumerate(timesteps):
        x_0 = decoder(x_t, torch.full((len(z_i),), t, device=z_i.device), z_i, text, keep).clamp(
            -1, 1
        )
        x_t = _ddim(x_t, x_0, alphas, t, timesteps[step + 1] if step + 1 < steps else -1)
    return x_t


@torch.inference_mode()
def sample_prior(
    prior: DiffusionPrior, text: TextEncoding, steps: int = 12, seed: int = 0
) -> Tensor:
    """Return z_i `[B, D]` of unit norm, by ancestral sampling."""
    generator = torch.Generator().manual_seed(seed)
    x_t = torch.randn(len(text.z_t), text.z_t.shape[1], generator=generator).to(text.z_t.device)
    alphas, timesteps = alphas_cumprod(prior.config.schedule).float(), spaced_timesteps(steps)
    bound = prior.config.clip_range
    for step, t in enumerate(timesteps):
        x_0 = prior(x_t, torch.full((len(x_t),), t, device=x_t.device), text).clamp(-bound, bound)
        after = timesteps[step + 1] if step + 1 < steps else -1
        x_t = _ddim(x_t, x_0, alphas, t, after)
        if after >= 0:
            fresh = torch.randn(x_t.shape, generator=generator).to(x_t.device)
            x_t = alphas[after].sqrt() * x_0 + (1 - alphas[after]).sqrt() * (
                0.8 * (x_t - alphas[after].sqrt() * x_0) / (1 - alphas[after]).sqrt() + 0.6 * fresh
            )
    return torch.nn.functional.normalize(prior.denormalize(x_t), dim=-1)


@torch.inference_mode()
def sample_upsampler(
    upsampler: Upsampler, low: Tensor, size: int, steps: int = 4, seed: int = 0
) -> Tensor:
    """Return images `[B, 3, size, size]` in [-1, 1] from small ones `[B, 3, s, s]`."""
    x_t = torch.randn(len(low), 3, size, size, generator=torch.Generator().manual_seed(seed)).to(
        low.device
    )
    alphas, timesteps = alphas_cumprod(upsampler.config.schedule).float(), spaced_timesteps(steps)
    for step, t in enumerate(timesteps):
        x_0 = upsampler(x_t, torch.full((len(low),), t), low).clamp(-1, 1)
        x_t = _ddim(x_t, x_0, alphas, t, timesteps[step + 1] if step + 1 < steps else -1)
    return x_t


def _ddim(x_t: Tensor, x_0: Tensor, alphas: Tensor, t: int, after: int) -> Tensor:
    """Return x at the next timestep, x_0 itself when there is none (Song et al. 2021, eq. 12
    without noise)."""
    if after < 0:
        return x_0
    eps = (x_t - alphas[t].sqrt() * x_0) / (1 - alphas[t]).sqrt()
    return alphas[after].sqrt() * x_0 + (1 - alphas[after]).sqrt() * eps
