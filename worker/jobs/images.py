"""Images at the door: float tensors become PNGs that say how they were drawn, and back. Nobody else converts."""

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


def png(image: Tensor, provenance: dict[str, Any]) -> bytes:
    """An image `[3, H, W]` in [-1, 1] as PNG bytes, with `provenance` as JSON in its text chunk `unclip`. The same
    image and provenance give the same bytes."""
    info = PngInfo()
    info.add_text(TEXT_KEY, json.dumps(provenance, sort_keys=True))
    buffer = io.BytesIO()
    # Level 1 compresses these images nearly as well as 6, at a fraction of the time.
    pillow(image).save(buffer, "PNG", pnginfo=info, compress_level=1)
    return buffer.getvalue()


def animation(images: Sequence[Tensor], kind: Literal["webp", "apng"]) -> bytes:
    """Images `[3, H, W]` in [-1, 1] as one animated WebP or APNG, there and back again for ever."""
    first, *others = (pillow(image) for image in [*images, *images[-2:0:-1]])
    buffer = io.BytesIO()
    kinds: dict[str, dict[str, Any]] = {
        "webp": {"format": "WEBP", "quality": 90},
        "apng": {"format": "PNG"},
    }
    first.save(
        buffer, save_all=True, append_images=others, duration=FRAME_MS, loop=0, **kinds[kind]
    )
    return buffer.getvalue()


def tensor(content: bytes) -> Tensor:
    """PNG bytes as `[C, H, W]` in [-1, 1]: C is 3 for RGB, 1 for a mask."""
    pixels = np.array(Image.open(io.BytesIO(content)))
    return (
        torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1))
        .permute(2, 0, 1)
        .float()
        .div(127.5)
        .sub(1)
    )


def pillow(image: Tensor) -> Image.Image:
    """An image `[3, H, W]` in [-1, 1] as Pillow has it."""
    return Image.fromarray(
        image.float()
        .clamp(-1, 1)
        .add(1)
        .mul(127.5)
        .round()
        .byte()
        .permute(1, 2, 0)
        .contiguous()
        .cpu()
        .numpy()
    )
