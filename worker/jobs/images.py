"""Conversion between float tensors and image files. Only this module converts."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from contracts.provenance import TEXT_KEY

FRAME_MS = 120
# Level 1 compresses these images nearly as well as level 6, in a fraction of the time.
PNG_COMPRESSION = 1


def encode_png(image: Tensor, provenance: dict[str, Any]) -> bytes:
    """Encode an image `[3, H, W]` in [-1, 1] as PNG, with `provenance` as JSON in its text chunk.

    The same image and provenance give the same bytes.
    """
    info = PngInfo()
    info.add_text(TEXT_KEY, json.dumps(provenance, sort_keys=True))
    buffer = io.BytesIO()
    to_pillow(image).save(buffer, "PNG", pnginfo=info, compress_level=PNG_COMPRESSION)
    return buffer.getvalue()


def encode_animation(images: Sequence[Tensor], kind: Literal["webp", "apng"]) -> bytes:
    """Encode images `[3, H, W]` in [-1, 1] as an endless animation that plays forth and back."""
    first, *others = (to_pillow(image) for image in [*images, *images[-2:0:-1]])
    options: dict[str, dict[str, Any]] = {
        "webp": {"format": "WEBP", "quality": 90},
        "apng": {"format": "PNG"},
    }
    buffer = io.BytesIO()
    first.save(
        buffer, save_all=True, append_images=others, duration=FRAME_MS, loop=0, **options[kind]
    )
    return buffer.getvalue()


def decode_png(content: bytes) -> Tensor:
    """Decode PNG bytes into `[C, H, W]` in [-1, 1]; C is 3 for RGB, 1 for a mask."""
    pixels = np.array(Image.open(io.BytesIO(content)))
    values = torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1))
    return values.permute(2, 0, 1).float().div(127.5).sub(1)


def to_pillow(image: Tensor) -> Image.Image:
    """Convert an image `[3, H, W]` in [-1, 1] into a Pillow image with 8 bits a channel."""
    levels = image.float().clamp(-1, 1).add(1).mul(127.5).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().cpu().numpy())
