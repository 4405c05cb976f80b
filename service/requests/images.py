"""Input images: their size is checked before they are decoded."""

from __future__ import annotations

import base64
import binascii
import io
import warnings

from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


class ImageError(ValueError):
    """An image that cannot be used. The message has the reason and the remedy."""


def decode_base64(text: str) -> bytes:
    """Decode base64, plain or as a data URL. Raises ImageError if it is neither."""
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise ImageError("its data URL is not base64; send data:image/png;base64,…")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(
            "it is not base64; send the file in base64, a data URL, or {job, index}"
        ) from error


def open_image(content: bytes, max_bytes: int, max_pixels: int) -> Image.Image:
    """Decode the first frame of a file and turn it upright.

    Raises ImageError if it is not an image, too large, or truncated.
    """
    if not content:
        raise ImageError("it is empty; send the bytes of a file")
    if len(content) > max_bytes:
        raise ImageError(f"it has {len(content)} bytes; send at most {max_bytes}")
    try:
        with warnings.catch_warnings():
            # Our own limit is lower.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise ImageError(
                f"it is {image.width}×{image.height}; send at most {max_pixels} pixels"
            )
        image.load()
        return ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise ImageError(
            f"it is not an image in a supported format; send {', '.join(FORMATS)}"
        ) from error
    # Pillow raises this before the header can be read.
    except Image.DecompressionBombError as error:
        raise ImageError(f"it has far too many pixels; send at most {max_pixels} pixels") from error
    except ImageError:
        raise
    # Decoders raise various errors at broken files.
    except Exception as error:
        raise ImageError(
            "it cannot be decoded and may be truncated "
            f"({type(error).__name__}: {str(error)[:100]})"
        ) from error
