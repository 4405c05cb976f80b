"""What an image that comes with a request is taken to be, whatever it was sent as: a square RGB PNG (a mask: L). The service makes it so
before it queues it; who draws an image again does the same to the files he was given."""

from __future__ import annotations

import hashlib
import io
from typing import Literal

from PIL import Image, ImageOps

MAX_SIDE = 1024  # the largest image drawn; more is not seen
Kind = Literal["image", "mask"]


def has_alpha(image: Image.Image) -> bool:
    """True where some of the image may be transparent."""
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def normalize_image(image: Image.Image, kind: Kind) -> bytes:
    """The centre square, at most MAX_SIDE wide, as PNG: RGB on white; a mask as L, white where to redraw (what is transparent, or
    else what is bright)."""
    if kind == "mask":
        image = (
            ImageOps.invert(_alpha(image)) if has_alpha(image) else _eight_bit(image).convert("L")
        )
        image = image.point(lambda value: 255 if value > 127 else 0)
    elif has_alpha(image):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    else:
        image = _eight_bit(image).convert("RGB")
    side = min(image.size)
    left = (image.width - side) // 2
    top = (image.height - side) // 2
    box = (left, top, left + side, top + side)
    # Of a mask every touched pixel counts, so it is not averaged away.
    resample = Image.Resampling.NEAREST if kind == "mask" else Image.Resampling.LANCZOS
    image = (
        image.crop(box).resize((MAX_SIDE, MAX_SIDE), resample)
        if side > MAX_SIDE
        else image.crop(box)
    )
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def image_digest(png: bytes) -> str:
    """SHA-256, in hex, of a normalized image: its mode and width as text, then its pixels. So it is the same for the file that was sent,
    for one that was saved anew without loss, and whatever compressed it."""
    image = Image.open(io.BytesIO(png))
    return hashlib.sha256(f"{image.mode} {image.width}\n".encode() + image.tobytes()).hexdigest()


def _alpha(image: Image.Image) -> Image.Image:
    return image.convert("RGBA").getchannel("A")


def _eight_bit(image: Image.Image) -> Image.Image:
    """16 bits a channel become 8; Pillow's own conversion would cut them off at 255."""
    if image.mode.startswith("I;16") or image.mode == "I":
        return image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    return image
