"""What a picture that comes with a request is taken to be, whatever it was sent as: a square RGB PNG (a mask: L). The service makes it so
before it queues it; who draws a picture again does the same to the files he was given."""

from __future__ import annotations

import hashlib
import io
from typing import Literal

from PIL import Image, ImageOps

MAX_SIDE = 1024  # the largest picture drawn; more is not seen
Kind = Literal["picture", "mask"]


def has_alpha(picture: Image.Image) -> bool:
    """True where some of the picture may be transparent."""
    return picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info


def normalized(picture: Image.Image, kind: Kind) -> bytes:
    """The centre square, at most MAX_SIDE wide, as PNG: RGB on white; a mask as L, white where to redraw (what is transparent, or
    else what is bright)."""
    if kind == "mask":
        picture = ImageOps.invert(_alpha(picture)) if has_alpha(picture) else _eight_bit(picture).convert("L")
        picture = picture.point(lambda value: 255 if value > 127 else 0)
    elif has_alpha(picture):
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    else:
        picture = _eight_bit(picture).convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    box = (left, top, left + side, top + side)
    # Of a mask every touched pixel counts, so it is not averaged away.
    resample = Image.Resampling.NEAREST if kind == "mask" else Image.Resampling.LANCZOS
    picture = picture.crop(box).resize((MAX_SIDE, MAX_SIDE), resample) if side > MAX_SIDE else picture.crop(box)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def digest(png: bytes) -> str:
    """SHA-256, in hex, of a normalized picture: its mode and width as text, then its pixels. So it is the same for the file that was sent,
    for one that was saved anew without loss, and whatever compressed it."""
    picture = Image.open(io.BytesIO(png))
    return hashlib.sha256(f"{picture.mode} {picture.width}\n".encode() + picture.tobytes()).hexdigest()


def _alpha(picture: Image.Image) -> Image.Image:
    return picture.convert("RGBA").getchannel("A")


def _eight_bit(picture: Image.Image) -> Image.Image:
    """16 bits a channel become 8; Pillow's own conversion would cut them off at 255."""
    if picture.mode.startswith("I;16") or picture.mode == "I":
        return picture.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    return picture
