"""Input images in their normal form: a square RGB PNG, or L for a mask.

The service normalizes images before it queues a job. `python -m worker reproduce` does the same to
the files that it gets.
"""

from __future__ import annotations

import hashlib
import io
from typing import Literal

from PIL import Image, ImageOps

# The largest image that is generated; more pixels have no effect.
MAX_SIDE_PX = 1024
Kind = Literal["image", "mask"]


def has_alpha(image: Image.Image) -> bool:
    """Return whether an image may have transparent parts."""
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def normalize_image(image: Image.Image, kind: Kind) -> bytes:
    """Return the centre square of an image as PNG, at most MAX_SIDE_PX wide.

    An image becomes RGB, on white where it is transparent. A mask becomes L, white where to
    generate anew: where it is transparent, or where it is bright if it has no alpha channel.
    """
    if kind == "mask":
        if has_alpha(image):
            image = ImageOps.invert(_alpha(image))
        else:
            image = _to_eight_bits(image).convert("L")
        image = image.point(lambda value: 255 if value > 127 else 0)
    elif has_alpha(image):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    else:
        image = _to_eight_bits(image).convert("RGB")
    side = min(image.size)
    left = (image.width - side) // 2
    top = (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if side > MAX_SIDE_PX:
        # Every marked pixel of a mask counts, so it is not averaged away.
        resample = Image.Resampling.NEAREST if kind == "mask" else Image.Resampling.LANCZOS
        image = image.resize((MAX_SIDE_PX, MAX_SIDE_PX), resample)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def image_digest(png: bytes) -> str:
    """Return the SHA-256 of a normalized image, in hex.

    It hashes the mode and width as text, then the pixels. So it is equal for the original file and
    for any lossless copy of it.
    """
    image = Image.open(io.BytesIO(png))
    return hashlib.sha256(f"{image.mode} {image.width}\n".encode() + image.tobytes()).hexdigest()


def _alpha(image: Image.Image) -> Image.Image:
    return image.convert("RGBA").getchannel("A")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16 bits a channel to 8. Pillow's own conversion clips them at 255."""
    if image.mode.startswith("I;16") or image.mode == "I":
        return image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    return image
