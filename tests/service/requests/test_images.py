"""Images that come in: what is read, what is refused, and that nothing large is decoded to find out."""

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
from service.requests.images import FORMATS, ImageError, from_base64, opened

RED = (255, 0, 0)
BLUE = (0, 0, 255)


def file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def halves(width: int = 40, height: int = 20) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def read(content: bytes, kind: Any = "image") -> np.ndarray:
    """What the worker would be given."""
    image = Image.open(io.BytesIO(normalize_image(opened(content, 1 << 24, 1 << 24), kind)))
    assert image.format == "PNG"
    assert image.mode == ("L" if kind == "mask" else "RGB")
    assert image.width == image.height
    return np.asarray(image)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_that_is_named_is_read(kind: str) -> None:
    """The middle square of it, in its colours."""
    pixels = read(
        file(
            halves(),
            kind,
            **(
                {"quality": 100, "lossless": True}
                if kind == "WEBP"
                else {"quality": 100}
                if kind == "JPEG"
                else {}
            ),
        )
    )
    assert pixels.shape == (20, 20, 3)
    assert np.abs(pixels[10, 3].astype(int) - RED).max() < 8
    assert np.abs(pixels[10, 16].astype(int) - BLUE).max() < 8


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "L", "1", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    """A grey of 128 stays one, whatever it is stored in."""
    grey = Image.new("L", (8, 8), 128)
    if mode == "I;16":
        grey = Image.fromarray(np.full((8, 8), 128 * 257, np.uint16))
    elif mode == "1":
        grey = Image.new("1", (8, 8), 1)
    elif mode == "CMYK":
        grey = Image.new("CMYK", (8, 8), (127, 127, 127, 0))
    else:
        grey = grey.convert("RGB").quantize() if mode == "P" else grey.convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    pixels = (
        np.asarray(Image.open(io.BytesIO(normalize_image(grey, "image"))))
        if kind == "TIFF"
        else read(file(grey))
    )
    assert np.abs(pixels.astype(int) - (255 if mode == "1" else 128)).max() <= 2


def test_what_is_transparent_is_seen_on_white() -> None:
    """Not on whatever colour lies under it."""
    assert (read(file(Image.new("RGBA", (4, 4), (*RED, 0)))) == 255).all()


def test_a_photograph_is_turned_upright() -> None:
    """EXIF orientation 6: the camera was on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = opened(file(halves(), "JPEG", exif=exif, quality=100), 1 << 24, 1 << 24)
    assert upright.size == (20, 40)
    assert upright.convert("RGB").getpixel((10, 5))[0] > 200


def test_of_an_animation_the_first_frame_counts() -> None:
    """GIF and WebP."""
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    for kind in ("GIF", "WEBP"):
        pixels = read(
            file(
                frames[0],
                kind,
                save_all=True,
                append_images=frames[1:],
                **({"lossless": True} if kind == "WEBP" else {}),
            )
        )
        assert np.abs(pixels.astype(int) - RED).max() < 8


def test_an_image_just_over_the_bound_is_refused_with_its_size() -> None:
    """Known from the header."""
    with pytest.raises(ImageError, match="it is 40×20: send at most 799 pixels"):
        opened(file(halves()), 1 << 24, 799)


def test_small_ones_stay_and_large_ones_shrink() -> None:
    """1×1 is an image."""
    assert read(file(Image.new("RGB", (1, 1), RED))).shape == (1, 1, 3)
    assert read(file(halves(3000, 2000))).shape == (MAX_SIDE_PX, MAX_SIDE_PX, 3)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_mask_says_what_to_redraw(mode: str) -> None:
    """White is redrawn; where there is transparency, what is transparent."""
    image = Image.new(mode, (4, 4), {"L": 0, "RGB": (0, 0, 0), "RGBA": (255, 255, 255, 255)}[mode])
    image.paste({"L": 255, "RGB": (255, 255, 255), "RGBA": (0, 0, 0, 0)}[mode], (0, 0, 2, 4))  # type: ignore[arg-type]
    assert read(file(image), "mask").tolist() == [[255, 255, 0, 0]] * 4
    assert has_alpha(image) == (mode == "RGBA")


def bomb(side: int) -> bytes:
    """A PNG of side² black pixels in some tens of kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    packed = b"".join(packer.compress(row * 100) for _ in range(side // 100)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


def test_a_huge_image_in_a_small_file_is_refused_before_it_is_decoded() -> None:
    """20,000×20,000 in about 50 kB."""
    content = bomb(20_000)
    assert len(content) < 60_000
    started = time.perf_counter()
    with pytest.raises(ImageError, match="send at most 25000000 pixels"):
        opened(content, 20_000_000, 25_000_000)
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"hello", "no image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image"),
        (file(halves(400, 400))[:600], "cut short"),
        (file(halves(400, 400), "JPEG")[:900], "cut short"),
        (file(halves(), "TIFF"), "no image"),
        (bytes(4000), "send at most 3000"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(content: bytes, message: str) -> None:
    """Never an exception of the decoder's own."""
    with pytest.raises(ImageError, match=message):
        opened(content, 3000, 1 << 24)


def test_base64_plain_and_as_a_data_url() -> None:
    """And neither."""
    text = base64.b64encode(b"hello").decode()
    assert (
        from_base64(text)
        == from_base64(f"data:image/png;base64,{text}")
        == from_base64(text[:4] + "\n" + text[4:])
        == b"hello"
    )
    for wrong in ("héllo", "abc", "data:image/png,abc", "data:"):
        with pytest.raises(ImageError):
            from_base64(wrong)
