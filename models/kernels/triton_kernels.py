"""The Triton kernels of `group_norm`.

Images are channels last: `[N, pixels, channels]`. Sums are in fp32 in every dtype.
"""

import triton
import triton.language as tl


@triton.jit
def moments(x, sums, pixels, channels, chunk, parts, BP: tl.constexpr, BC: tl.constexpr):
    """Sum x and its squares over each part of `chunk` pixels, into `[N, parts, 2, channels]`."""
    part = tl.program_id(0)
    n = tl.program_id(2)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    totals = tl.zeros([BP, BC], tl.float32)
    squares = tl.zeros([BP, BC], tl.float32)
    first = x + n.to(tl.int64) * pixels * channels
    for start in range(0, chunk, BP):
        p = part * chunk + start + tl.arange(0, BP)
        inside = (p < pixels)[:, None] & (c < channels)[None, :]
        v = tl.load(first + p[:, None] * channels + c[None, :], mask=inside, other=0.0).to(
            tl.float32
        )
        totals += v
        squares += v * v
    to = sums + (n * parts + part) * 2 * channels + c
    tl.store(to, tl.sum(totals, 0), mask=c < channels)
    tl.store(to + channels, tl.sum(squares, 0), mask=c < channels)


@triton.jit
def affine_factors(
    sums,
    weight,
    bias,
    added,
    film,
    factors,
    pixels,
    channels,
    width,
    parts,
    added_stride,
    eps,
    ADDED: tl.constexpr,
    FILM: tl.constexpr,
    BQ: tl.constexpr,
    BD: tl.constexpr,
):
    """Turn sums of x into the factors `[N, 2, channels]` of its group norm.

    x * scale + shift is then the group norm of x + added, with FiLM. A program is a group of
    `width` channels."""
    g = tl.program_id(0)
    n = tl.program_id(1)
    d = tl.arange(0, BD)
    c = g * width + d
    inside_group = d < width
    totals = tl.zeros([BQ, BD], tl.float32)
    squares = tl.zeros([BQ, BD], tl.float32)
    for start in range(0, parts, BQ):
        q = start + tl.arange(0, BQ)
        inside = (q < parts)[:, None] & inside_group[None, :]
        at = sums + (n * parts + q[:, None]) * 2 * channels + c[None, :]
        totals += tl.load(at, mask=inside, other=0.0)
        squares += tl.load(at + channels, mask=inside, other=0.0)
    of_x = tl.sum(totals, 0)
    of_x2 = tl.sum(squares, 0)
    a = tl.zeros([BD], tl.float32)
    if ADDED:
        a = tl.load(added + n * added_stride + c, mask=inside_group, other=0.0).to(tl.float32)
        of_x2 += 2 * a * of_x + pixels * a * a
        of_x += pixels * a
    count = pixels * width
    mean = tl.sum(of_x, 0) / count
    variance = tl.maximum(tl.sum(of_x2, 0) / count - mean * mean, 0.0)
    scale = tl.load(weight + c, mask=inside_group, other=0.0).to(tl.float32) / tl.sqrt(
        variance + eps
    )
    shift = tl.load(bias + c, mask=inside_group, other=0.0).to(tl.float32) - mean * scale
    if FILM:
        by = 1 + tl.load(film + n * 2 * channels + c, mask=inside_group, other=0.0).to(tl.float32)
        scale *= by
        shift = shift * by + tl.load(
            film + n * 2 * channels + channels + c, mask=inside_group, other=0.0
        ).to(tl.float32)
    shift += a * scale
    to = factors + n * 2 * channels + c
    tl.store(to, scale, mask=inside_group)
    tl.store(to + channels, shift, mask=inside_group)


@triton.jit
def apply_affine(
    x, factors, out, pixels, channels, SILU: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr
):
    """Write x * scale + shift, through SiLU if SILU is set."""
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    n = tl.program_id(2)
    inside = (p < pixels)[:, None] & (c < channels)[None, :]
    at = n.to(tl.int64) * pixels * channels + p[:, None] * channels + c[None, :]
    of = factors + n * 2 * channels + c
    scale = tl.load(of, mask=c < channels, other=0.0)
    shift = tl.load(of + channels, mask=c < channels, other=0.0)
    v = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) * scale[None, :] + shift[None, :]
    if SILU:
        v = v / (1 + tl.exp(-v))
    tl.store(out + at, v.to(out.dtype.element_ty), mask=inside)


@triton.jit
def add_with_bias(a, b, bias, out, pixels, channels, BP: tl.constexpr, BC: tl.constexpr):
    """Write a + b + bias for the pixels of all images."""
    p = tl.program_id(0).to(tl.int64) * BP + tl.arange(0, BP)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    inside = (p < pixels)[:, None] & (c < channels)[None, :]
    at = p[:, None] * channels + c[None, :]
    v = tl.load(a + at, mask=inside, other=0.0).to(tl.float32) + tl.load(
        b + at, mask=inside, other=0.0
    ).to(tl.float32)
    v += tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)[None, :]
    tl.store(out + at, v.to(out.dtype.element_ty), mask=inside)
