"""Pictures that come in: bounded before they are decoded, then turned into what the worker reads, a square RGB PNG (a mask: L)."""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from typing import Literal

from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_SIDE = 1024  # the largest picture drawn; more is not seen
Kind = Literal["picture", "mask"]


class PictureError(ValueError):
    """A picture that cannot be used; the message says why and what would do."""


def from_base64(text: str) -> bytes:
    """The bytes of base64, plain or as a data URL. PictureError where it is neither."""
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise PictureError("its data URL is not base64: send data:image/png;base64,… ")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise PictureError("it is not base64: send the file's bytes in base64, a data URL, or {job, index}") from error


def opened(content: bytes, max_bytes: int, max_pixels: int) -> Image.Image:
    """A file's first frame, upright, decoded to the end. PictureError for what is no picture, too large, or cut short."""
    if len(content) > max_bytes:
        raise PictureError(f"it has {len(content)} bytes: send at most {max_bytes}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own bound is lower
            picture = Image.open(io.BytesIO(content), formats=FORMATS)
        if picture.width * picture.height > max_pixels:
            raise PictureError(f"it is {picture.width}×{picture.height}: send at most {max_pixels} pixels")
        picture.load()
        return ImageOps.exif_transpose(picture)
    except UnidentifiedImageError as error:
        raise PictureError(f"it is no picture in a format read here: send {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:  # Pillow's own bound, met before its header can be asked
        raise PictureError(f"it has far too many pixels: send at most {max_pixels} pixels") from error
    except PictureError:
        raise
    except Exception as error:  # decoders raise whatever they like at broken files
        raise PictureError(f"it cannot be decoded, it may be cut short ({type(error).__name__}: {str(error)[:100]})") from error


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


def _alpha(picture: Image.Image) -> Image.Image:
    return picture.convert("RGBA").getchannel("A")


def _eight_bit(picture: Image.Image) -> Image.Image:
    """16 bits a channel become 8; Pillow's own conversion would cut them off at 255."""
    if picture.mode.startswith("I;16") or picture.mode == "I":
        return picture.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    return picture
