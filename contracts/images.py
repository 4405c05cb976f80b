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
    if image.mode.startswith("I"):
        return False  # a colour key of 16 bits, which Pillow cannot apply
    # A text chunk of the sender may be called "transparency" too.
    key = image.info.get("transparency")
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or isinstance(key, int | bytes | tuple)


def normalize_image(image: Image.Image, kind: Kind) -> bytes:
    """Return the centre square of an image as PNG, at most MAX_SIDE_PX wide, without metadata.

    An image becomes RGB, on white where it is transparent. A mask becomes L, white where to
    repaint: where it is transparent, or where it is bright if nothing in it is transparent.
    """
    image = _without_text(_crop_square(image))
    image = _normalize_mask(image) if kind == "mask" else _normalize_pixels(image)
    image.info = {}
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _crop_square(image: Image.Image) -> Image.Image:
    # Pillow copies an image also if nothing is cut off, which doubles the memory of a large one.
    if image.width == image.height:
        return image
    side = min(image.size)
    left = (image.width - side) // 2
    top = (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _without_text(image: Image.Image) -> Image.Image:
    """Remove a transparency key that is not one, which Pillow would trust."""
    if not isinstance(image.info.get("transparency"), int | bytes | tuple | None):
        image.info.pop("transparency")
    return image


def _normalize_pixels(image: Image.Image) -> Image.Image:
    size = (min(image.width, MAX_SIDE_PX),) * 2
    if not has_alpha(image):
        image = _convert(_to_eight_bits(image), "RGB")
        return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
    image = _convert(image, "RGBA")
    if image.size != size:
        # Pillow weighs colours by alpha, so transparent pixels do not bleed.
        image = image.resize(size, Image.Resampling.LANCZOS)
    return Image.alpha_composite(Image.new("RGBA", size, "white"), image).convert("RGB")


def _normalize_mask(image: Image.Image) -> Image.Image:
    mask = None
    if has_alpha(image):
        alpha = _convert(image, "RGBA").getchannel("A")
        # Canvases save an alpha channel also when everything is opaque.
        if alpha.getextrema() != (255, 255):
            mask = ImageOps.invert(alpha)
        else:
            image = image.convert("RGB")
    if mask is None:
        mask = _convert(_to_eight_bits(image), "L")
    mask = mask.point(lambda value: 255 if value > 127 else 0)
    if mask.width <= MAX_SIDE_PX:
        return mask
    # Every marked pixel counts: a mean above zero contains one.
    mask = mask.resize((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.BOX)
    return mask.point(lambda value: 255 if value > 0 else 0)


def image_digest(png: bytes) -> str:
    """Return the SHA-256 of a normalized image, in hex.

    It hashes the mode and width as text, then the pixels. So it is equal for the original file and
    for any lossless copy of it.
    """
    image = Image.open(io.BytesIO(png))
    return hashlib.sha256(f"{image.mode} {image.width}\n".encode() + image.tobytes()).hexdigest()


def _convert(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image; return the same one, without a copy, if it has the mode already."""
    return image if image.mode == mode else image.convert(mode)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16 bits a channel to 8. Pillow's own conversion clips them at 255."""
    if image.mode.startswith("I;16") or image.mode == "I":
        return image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    return image
