"""Input images: what is read, what is rejected, and that large ones are not decoded."""

from __future__ import annotations

import base64
import io
import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contracts.images import MAX_SIDE_PX, has_alpha, normalize_image
from service.requests.images import FORMATS, ImageError, decode_base64, open_image

RED = (255, 0, 0)
BLUE = (0, 0, 255)
NO_LIMIT = 1 << 24
LOSSLESS = {"WEBP": {"quality": 100, "lossless": True}, "JPEG": {"quality": 100}}


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return an image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def red_and_blue(width: int = 40, height: int = 20) -> Image.Image:
    """Return an image that is red on the left and blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def normalize(content: bytes, kind: Any = "image") -> np.ndarray:
    """Return the pixels of a file as the worker gets them."""
    png = normalize_image(open_image(content, NO_LIMIT, NO_LIMIT), kind)
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    assert image.mode == ("L" if kind == "mask" else "RGB")
    assert image.width == image.height
    return np.asarray(image)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read(kind: str) -> None:
    """The centre square has the image's colours."""
    pixels = normalize(encode(red_and_blue(), kind, **LOSSLESS.get(kind, {})))
    assert pixels.shape == (20, 20, 3)
    assert np.abs(pixels[10, 3].astype(int) - RED).max() < 8
    assert np.abs(pixels[10, 16].astype(int) - BLUE).max() < 8


def gray_image(mode: str) -> Image.Image:
    """Return an image of grey 128 in a mode."""
    gray = Image.new("L", (8, 8), 128)
    if mode == "I;16":
        return Image.fromarray(np.full((8, 8), 128 * 257, np.uint16))
    if mode == "CMYK":
        return Image.new("CMYK", (8, 8), (127, 127, 127, 0))
    if mode == "P":
        return gray.convert("RGB").quantize()
    return gray.convert(mode)


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "L", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    """Grey 128 stays grey 128."""
    png = normalize_image(gray_image(mode), "image")
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    assert pixels.shape == (8, 8, 3)
    assert np.abs(pixels.astype(int) - 128).max() <= 2


def test_a_bitmap_becomes_rgb() -> None:
    """White stays white."""
    assert (normalize(encode(Image.new("1", (8, 8), 1))) == 255).all()


def test_transparent_parts_become_white() -> None:
    """The colour below a transparent pixel does not show."""
    assert (normalize(encode(Image.new("RGBA", (4, 4), (*RED, 0)))) == 255).all()


def test_a_photograph_is_turned_upright() -> None:
    """EXIF orientation 6 is a camera on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encode(red_and_blue(), "JPEG", exif=exif, quality=100)
    upright = open_image(content, NO_LIMIT, NO_LIMIT)
    assert upright.size == (20, 40)
    assert np.asarray(upright.convert("RGB"))[5, 10, 0] > 200


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_the_first_frame_of_an_animation_counts(kind: str) -> None:
    """Later frames are ignored."""
    first, second = (Image.new("RGB", (4, 4), color) for color in (RED, BLUE))
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encode(first, kind, save_all=True, append_images=[second], **options)
    assert np.abs(normalize(content).astype(int) - RED).max() < 8


def test_too_many_pixels_are_rejected() -> None:
    """The message has the size and the limit."""
    with pytest.raises(ImageError, match="it is 40×20; send at most 799 pixels"):
        open_image(encode(red_and_blue()), NO_LIMIT, 799)


@pytest.mark.parametrize(
    ("size", "side"), [((1, 1), 1), ((40, 20), 20), ((3000, 2000), MAX_SIDE_PX)]
)
def test_only_large_images_shrink(size: tuple[int, int], side: int) -> None:
    """A smaller image keeps its centre square's size."""
    assert normalize(encode(Image.new("RGB", size, RED))).shape == (side, side, 3)


@pytest.mark.parametrize(
    ("mode", "marked", "unmarked"),
    [
        ("L", 255, 0),
        ("RGB", (255, 255, 255), (0, 0, 0)),
        ("RGBA", (0, 0, 0, 0), (255, 255, 255, 255)),
    ],
)
def test_a_mask_is_white_or_transparent(mode: str, marked: Any, unmarked: Any) -> None:
    """With an alpha channel transparency counts, otherwise brightness."""
    image = Image.new(mode, (4, 4), unmarked)
    image.paste(marked, (0, 0, 2, 4))
    assert normalize(encode(image), "mask").tolist() == [[255, 255, 0, 0]] * 4
    assert has_alpha(image) == (mode == "RGBA")


def make_bomb(side: int) -> bytes:
    """Return a PNG of side² black pixels that is a small file."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    packer = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    packed = b"".join(packer.compress(row * 100) for _ in range(side // 100)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_a_decompression_bomb_is_not_decoded() -> None:
    """A file of 50 kB with 20,000×20,000 pixels is rejected at once."""
    content = make_bomb(20_000)
    assert len(content) < 60_000
    started_at = time.perf_counter()
    with pytest.raises(ImageError, match="send at most 25000000 pixels"):
        open_image(content, 20_000_000, 25_000_000)
    assert time.perf_counter() - started_at < 0.5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"hello", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (encode(red_and_blue(400, 400))[:600], "may be truncated"),
        (encode(red_and_blue(400, 400), "JPEG")[:900], "may be truncated"),
        (encode(red_and_blue(), "TIFF"), "not an image"),
        (bytes(4000), "send at most 3000"),
    ],
)
def test_a_broken_file_is_rejected(content: bytes, message: str) -> None:
    """Errors of the decoder become an ImageError with the reason."""
    with pytest.raises(ImageError, match=message):
        open_image(content, 3000, NO_LIMIT)


@pytest.mark.parametrize("template", ["{}", "data:image/png;base64,{}", "\n{}\n"])
def test_base64_is_decoded(template: str) -> None:
    """It may be plain, a data URL, or have line breaks."""
    text = template.format(base64.b64encode(b"hello").decode())
    assert decode_base64(text, NO_LIMIT) == b"hello"


@pytest.mark.parametrize("text", ["héllo", "abc", "data:image/png,abc", "data:"])
def test_other_text_is_not_base64(text: str) -> None:
    """It is an ImageError."""
    with pytest.raises(ImageError):
        decode_base64(text, NO_LIMIT)


def add_chunk(png: bytes, kind: bytes, data: bytes) -> bytes:
    """Return a PNG with another chunk after its header."""
    chunk = struct.pack(">I", len(data)) + kind + data
    return png[:33] + chunk + struct.pack(">I", zlib.crc32(kind + data)) + png[33:]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (b"eXIf", b"junk"),
        (b"tEXt", b"transparency\0text"),
        (b"zTXt", b"workflow\0\0" + zlib.compress(bytes(1_200_000))),
        (b"iCCP", b"profile\0\0" + zlib.compress(bytes(1_800_000))),
        (b"iTXt", b"broken"),
    ],
)
def test_metadata_does_not_matter(kind: bytes, data: bytes) -> None:
    """The pixels are read, and the image that is kept has no metadata."""
    plain = encode(red_and_blue())
    content = add_chunk(plain, kind, data)
    assert (normalize(content) == normalize(plain)).all()
    png = normalize_image(open_image(content, NO_LIMIT, NO_LIMIT), "image")
    assert Image.open(io.BytesIO(png)).info == {}


def test_a_text_bomb_is_not_unpacked() -> None:
    """Text that would have 300 MB is skipped in milliseconds."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(300)) + packer.flush()
    content = add_chunk(encode(red_and_blue()), b"zTXt", b"bomb\0\0" + packed)
    started_at = time.perf_counter()
    open_image(content, NO_LIMIT, NO_LIMIT)
    assert time.perf_counter() - started_at < 0.5


def test_a_jpeg_with_a_large_profile_is_read() -> None:
    """Print profiles of CMYK have 1.8 MB."""
    content = encode(red_and_blue(), "JPEG", icc_profile=bytes(1_800_000))
    assert normalize(content).shape == (20, 20, 3)


def test_base64_is_decoded_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Line breaks and padding may be at any place of a slice."""
    monkeypatch.setattr("service.requests.images._SLICE_CHARACTERS", 7)
    for length in range(40):
        text = base64.encodebytes(bytes(range(length))).decode()
        assert decode_base64(text, NO_LIMIT) == bytes(range(length))
    with pytest.raises(ImageError):
        decode_base64("QUE=QUFBQUFB", NO_LIMIT)


def test_long_base64_is_not_decoded() -> None:
    """Its length shows that the file is too large."""
    with pytest.raises(ImageError, match="send at most 3000 bytes"):
        decode_base64("A" * 6002, 3000)
