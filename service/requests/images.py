"""Images that come in: bounded before they are decoded. What is made of them says contracts/images.py."""

from __future__ import annotations

import base64
import binascii
import io
import warnings

from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


class ImageError(ValueError):
    """An image that cannot be used; the message says why and what would do."""


def from_base64(text: str) -> bytes:
    """The bytes of base64, plain or as a data URL. ImageError where it is neither."""
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise ImageError("its data URL is not base64: send data:image/png;base64,… ")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(
            "it is not base64: send the file's bytes in base64, a data URL, or {job, index}"
        ) from error


def opened(content: bytes, max_bytes: int, max_pixels: int) -> Image.Image:
    """A file's first frame, upright, decoded to the end. ImageError for what is no image, too large, or cut short."""
    if not content:
        raise ImageError("it is empty: send the file's bytes")
    if len(content) > max_bytes:
        raise ImageError(f"it has {len(content)} bytes: send at most {max_bytes}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", Image.DecompressionBombWarning
            )  # our own bound is lower
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise ImageError(
                f"it is {image.width}×{image.height}: send at most {max_pixels} pixels"
            )
        image.load()
        return ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise ImageError(
            f"it is no image in a format read here: send {', '.join(FORMATS)}"
        ) from error
    except (
        Image.DecompressionBombError
    ) as error:  # Pillow's own bound, met before its header can be asked
        raise ImageError(f"it has far too many pixels: send at most {max_pixels} pixels") from error
    except ImageError:
        raise
    except Exception as error:  # decoders raise whatever they like at broken files
        raise ImageError(
            f"it cannot be decoded, it may be cut short ({type(error).__name__}: {str(error)[:100]})"
        ) from error
