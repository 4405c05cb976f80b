"""Fused group norm on a GPU: three passes over an image that keep it channels last.

torch's own group norm converts an image to channels first. Each image is then copied before the
norm and again before the next convolution. SiLU, FiLM and a convolution's bias are passes of their
own, and at 256² in fp16 all of them take as long as the products. Here the bias of the convolution
before, and what is added to its channels, go in with the statistics; FiLM and SiLU with the norm.
"""

from __future__ import annotations

import logging
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

log = logging.getLogger("models.kernels.group_norm")
# Pixels and channels of a program's tile, and partial sums that a program adds at a time.
PIXELS = 64
CHANNELS = 64
PARTS = 32
# Programs that keep a large GPU busy.
PROGRAMS = 2048


def is_supported(x: Tensor) -> bool:
    """Whether `norm` and `add_with_bias` run on x `[B, C, H, W]`.

    They need a GPU with Triton, channels last, and no gradients. torch.compile generates its own
    kernels from the plain operations."""
    return (
        x.is_cuda
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and x.is_contiguous(memory_format=torch.channels_last)
        and _works(x.device)
    )


def norm(
    x: Tensor,
    module: nn.GroupNorm,
    added: Tensor | None = None,
    film: Tensor | None = None,
    silu: bool = True,
) -> Tensor:
    """Return the group norm of x `[B, C, H, W]` + added `[B or 1, C]`, with FiLM and SiLU.

    `film` is scale and shift side by side, `[B, 2C]`: the result is multiplied by 1 + scale and
    shift is added. Requires `is_supported(x)`."""
    from models.kernels import triton_kernels

    batch, channels, height, width = x.shape
    pixels = height * width
    blocks = -(-channels // CHANNELS)
    parts = min(-(-pixels // PIXELS), -(-PROGRAMS // (batch * blocks)))
    chunk = -(-pixels // (parts * PIXELS)) * PIXELS
    parts = -(-pixels // chunk)
    sums = torch.empty(batch, parts, 2, channels, dtype=torch.float32, device=x.device)
    factors = torch.empty(batch, 2, channels, dtype=torch.float32, device=x.device)
    out = torch.empty_like(x)
    group_channels = channels // module.num_groups
    with torch.cuda.device_of(x):
        triton_kernels.moments[(parts, blocks, batch)](
            x, sums, pixels, channels, chunk, parts, BP=PIXELS, BC=CHANNELS
        )
        triton_kernels.affine_factors[(module.num_groups, batch)](
            sums,
            module.weight,
            module.bias,
            x if added is None else added.contiguous(),
            x if film is None else film.contiguous(),
            factors,
            pixels,
            channels,
            group_channels,
            parts,
            channels if added is not None and len(added) > 1 else 0,
            module.eps,
            ADDED=added is not None,
            FILM=film is not None,
            BQ=PARTS,
            BD=1 << (group_channels - 1).bit_length(),
        )
        triton_kernels.apply_affine[(-(-pixels // PIXELS), blocks, batch)](
            x, factors, out, pixels, channels, SILU=silu, BP=PIXELS, BC=CHANNELS
        )
    return out


def add_with_bias(a: Tensor, b: Tensor, bias: Tensor) -> Tensor:
    """Return a + b, `[B, C, H, W]` each, plus a bias `[C]`. Requires `is_supported(a)`."""
    from models.kernels import triton_kernels

    a = a.contiguous(memory_format=torch.channels_last)
    b = b.contiguous(memory_format=torch.channels_last)
    out = torch.empty_like(a)
    channels = a.shape[1]
    pixels = a.numel() // channels
    with torch.cuda.device_of(a):
        triton_kernels.add_with_bias[(-(-pixels // PIXELS), -(-channels // CHANNELS))](
            a, b, bias, out, pixels, channels, BP=PIXELS, BC=CHANNELS
        )
    return out


def conv_without_bias(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a convolution without its bias, which the next kernel adds.

    On a GPU the bias is a pass over the image."""
    return F.conv2d(x, conv.weight, None, conv.stride, conv.padding)


@cache
def _works(device: torch.device) -> bool:
    """Whether the kernels run on this device and agree with torch, checked on a small image."""
    try:
        agree = _agrees_with_torch(device)
    except Exception:
        # No Triton, no compiler for it, or a GPU that it does not support: use torch's own.
        log.warning("fused kernels do not run on %s: using torch's own", device, exc_info=True)
        return False
    if not agree:
        log.warning("fused kernels differ from torch on %s: using torch's own", device)
    return agree


def _agrees_with_torch(device: torch.device) -> bool:
    x = torch.linspace(-2, 3, 2 * 24 * 81, device=device).sin().view(2, 24, 9, 9).half()
    x = x.contiguous(memory_format=torch.channels_last)
    module = nn.GroupNorm(4, 24, device=device, dtype=x.dtype)
    added = x[:, :, 0, 0].contiguous()
    film = x[:, :, :2, 1].flatten(1)
    # In fp32: torch's own steps in fp16 round by more than the kernels may differ.
    scale, shift = film[..., None, None].float().chunk(2, dim=1)
    normed = F.group_norm(
        (x.float() + added[..., None, None]),
        module.num_groups,
        module.weight.float(),
        module.bias.float(),
        module.eps,
    )
    pairs = (
        (norm(x, module, added, film), F.silu(normed * (1 + scale) + shift)),
        (add_with_bias(x, x, added[0]), 2 * x.float() + added[:1, :, None, None]),
    )
    return all(torch.allclose(ours.float(), torchs, atol=1e-2) for ours, torchs in pairs)
