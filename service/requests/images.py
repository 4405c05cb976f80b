"""Input images: their size is checked before they are decoded, their metadata is skipped."""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from collections.abc import Iterable, Iterator

from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Chunks of a PNG that are not critical and change its pixels or their orientation.
_READ_CHUNKS = (b"tRNS", b"eXIf")
# Characters of base64 that are decoded at once. Python's threads take turns in between.
_SLICE_CHARACTERS = 1 << 20


class ImageError(ValueError):
    """An image that cannot be used. The message has the reason and the remedy."""


def decode_base64(text: str, max_bytes: int) -> bytes:
    """Decode base64, plain or as a data URL.

    Raises ImageError if it is neither, or longer than a file of `max_bytes` bytes.
    """
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise ImageError("its data URL is not base64; send data:image/png;base64,…")
    # Line breaks may add some characters.
    if len(text) // 2 > max_bytes:
        raise ImageError(f"its base64 has {len(text)} characters; send at most {max_bytes} bytes")
    try:
        return b"".join(_decode_slices(text))
    except (binascii.Error, ValueError) as error:
        raise ImageError(
            "it is not base64; send the file in base64, a data URL, or {job, index}"
        ) from error


def _decode_slices(text: str) -> Iterator[bytes]:
    rest = ""
    for start in range(0, len(text), _SLICE_CHARACTERS):
        rest += "".join(text[start : start + _SLICE_CHARACTERS].split())
        length = len(rest) // 4 * 4
        yield base64.b64decode(rest[:length], validate=True)
        if "=" in rest[:length] and text[start + _SLICE_CHARACTERS :].strip():
            raise ValueError("padding comes before the end")
        rest = rest[length:]
    yield base64.b64decode(rest, validate=True)


def check_total_pixels(
    contents: Iterable[bytes], max_bytes: int, max_pixels: int, max_total_pixels: int
) -> None:
    """Check the sizes of all images of a request by their headers, without decoding them.

    Raises ImageError if together they have more than `max_total_pixels`. Files that cannot be
    used count as 0: `open_image` rejects them.
    """
    total = 0
    for content in contents:
        try:
            with _open_header(content, max_bytes, max_pixels) as image:
                total += image.width * image.height
        except ImageError:
            continue
    if total > max_total_pixels:
        raise ImageError(
            f"the images of the request have {total} pixels together; send at most "
            f"{max_total_pixels}"
        )


def open_image(content: bytes, max_bytes: int, max_pixels: int) -> Image.Image:
    """Decode the first frame of a file and turn it upright. Broken metadata is ignored.

    Raises ImageError if it is not an image, too large, or truncated.
    """
    image = _open_header(content, max_bytes, max_pixels)
    try:
        image.load()
    # Decoders raise various errors at broken files.
    except Exception as error:
        raise _truncated(error) from error
    try:
        ImageOps.exif_transpose(image, in_place=True)
    # Its EXIF data is broken, and the pixels are whole.
    except Exception:
        return image
    return image


def _open_header(content: bytes, max_bytes: int, max_pixels: int) -> Image.Image:
    """Open a file without decoding it. Raises ImageError as `open_image` does."""
    if not content:
        raise ImageError("it is empty; send the bytes of a file")
    if len(content) > max_bytes:
        raise ImageError(f"it has {len(content)} bytes; send at most {max_bytes}")
    try:
        with warnings.catch_warnings():
            # Our own limit is lower.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(_without_metadata(content)), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageError(
            f"it is not an image in a supported format; send {', '.join(FORMATS)}"
        ) from error
    # Pillow raises this before the header can be read.
    except Image.DecompressionBombError as error:
        raise ImageError(f"it has far too many pixels; send at most {max_pixels} pixels") from error
    except Exception as error:
        raise _truncated(error) from error
    if image.width * image.height > max_pixels:
        raise ImageError(f"it is {image.width}×{image.height}; send at most {max_pixels} pixels")
    return image


def _without_metadata(content: bytes) -> bytes:
    """Return a PNG without text, profiles and the like, which Pillow would unpack.

    Other files, and a PNG that is cut short, are returned as they are.
    """
    if not content.startswith(PNG_SIGNATURE):
        return content
    view = memoryview(content)
    parts = [view[: len(PNG_SIGNATURE)]]
    start = len(PNG_SIGNATURE)
    while start + 8 <= len(content):
        end = start + 12 + int.from_bytes(view[start : start + 4], "big")
        kind = content[start + 4 : start + 8]
        # The first letter of critical chunks is a capital.
        if kind[:1].isupper() or kind in _READ_CHUNKS:
            parts.append(view[start:end])
        start = end
    return b"".join(parts)


def _truncated(error: Exception) -> ImageError:
    return ImageError(
        f"it cannot be decoded and may be truncated ({type(error).__name__}: {str(error)[:100]})"
    )
