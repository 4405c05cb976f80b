"""Group norm with what stands around it, in three passes over an image on a GPU that keep it channels last.

torch's own group norm makes an image channels first there, so that each is copied before the norm and again before the next
convolution; SiLU, FiLM and a convolution's bias are passes of their own, and at 256² in fp16 all of them take as long as the products.
Here the bias of the convolution before, and what is added to its channels, go in with the statistics, and FiLM and SiLU with the norm.
"""

from __future__ import annotations

import logging
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

log = logging.getLogger("models.kernels.group_norm")
# of a program's tile
PIXELS = 64
CHANNELS = 64
PARTS = 32
PROGRAMS = 2048  # that keep a large GPU busy


def usable(x: Tensor) -> bool:
    """Whether `norm` and `total` can be had for x `[B, C, H, W]`: on a GPU with Triton, without gradients, channels last. torch.compile
    makes its own of the plain operations."""
    return (
        x.is_cuda
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and x.is_contiguous(memory_format=torch.channels_last)
        and _works(x.device)
    )


def norm(
    x: Tensor,
    of: nn.GroupNorm,
    added: Tensor | None = None,
    film: Tensor | None = None,
    silu: bool = True,
) -> Tensor:
    """The group norm of x `[B, C, H, W]` + added `[B or 1, C]`, then times 1 + scale plus shift (film is both, `[B, 2C]`), then SiLU."""
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
    each = channels // of.num_groups
    with torch.cuda.device_of(x):
        triton_kernels.moments[(parts, blocks, batch)](
            x, sums, pixels, channels, chunk, parts, BP=PIXELS, BC=CHANNELS
        )
        triton_kernels.affine[(of.num_groups, batch)](
            sums,
            of.weight,
            of.bias,
            x if added is None else added.contiguous(),
            x if film is None else film.contiguous(),
            factors,
            pixels,
            channels,
            each,
            parts,
            channels if added is not None and len(added) > 1 else 0,
            of.eps,
            ADDED=added is not None,
            FILM=film is not None,
            BQ=PARTS,
            BD=1 << (each - 1).bit_length(),
        )
        triton_kernels.applied[(-(-pixels // PIXELS), blocks, batch)](
            x, factors, out, pixels, channels, SILU=silu, BP=PIXELS, BC=CHANNELS
        )
    return out


def total(a: Tensor, b: Tensor, bias: Tensor) -> Tensor:
    """a + b, `[B, C, H, W]` each, with a bias `[C]`."""
    from models.kernels import triton_kernels

    a, b = (x.contiguous(memory_format=torch.channels_last) for x in (a, b))
    out = torch.empty_like(a)
    channels = a.shape[1]
    pixels = a.numel() // channels
    with torch.cuda.device_of(a):
        triton_kernels.total[(-(-pixels // PIXELS), -(-channels // CHANNELS))](
            a, b, bias, out, pixels, channels, BP=PIXELS, BC=CHANNELS
        )
    return out


def unbiased(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution whose bias is left to what follows: on a GPU it is a pass of its own."""
    return F.conv2d(x, conv.weight, None, conv.stride, conv.padding)


@cache
def _works(device: torch.device) -> bool:
    """Whether the kernels run on this device and say what torch says, tried once on a small image."""
    try:
        x = (
            torch.linspace(-2, 3, 2 * 24 * 81, device=device)
            .sin()
            .view(2, 24, 9, 9)
            .half()
            .contiguous(memory_format=torch.channels_last)
        )
        of = nn.GroupNorm(4, 24, device=device, dtype=x.dtype)
        added = x[:, :, 0, 0].contiguous()
        film = x[:, :, :2, 1].flatten(1)
        # In fp32: torch's own steps in fp16 round by more than the kernels may be off.
        scale, shift = film[..., None, None].float().chunk(2, dim=1)
        normed = F.group_norm(
            (x.float() + added[..., None, None]),
            of.num_groups,
            of.weight.float(),
            of.bias.float(),
            of.eps,
        )
        wanted = F.silu(normed * (1 + scale) + shift)
        summed = 2 * x.float() + added[:1, :, None, None]
        same = all(
            torch.allclose(a.float(), b, atol=1e-2)
            for a, b in ((norm(x, of, added, film), wanted), (total(x, x, added[0]), summed))
        )
    except (
        Exception
    ):  # no Triton, no compiler for it, or a GPU that it does not know: torch's own do as well
        log.warning("fused kernels do not run on %s: torch's own are slower", device, exc_info=True)
        return False
    if not same:
        log.warning(
            "fused kernels say something else than torch's own on %s: they are left out", device
        )
    return same
