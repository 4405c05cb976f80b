"""Input images in their normal form, whatever the sender's program wrote."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from contracts.images import MAX_SIDE_PX, image_digest, normalize_image


def pixels_of(png: bytes) -> np.ndarray:
    """Return the pixels of a PNG."""
    return np.asarray(Image.open(io.BytesIO(png))).astype(int)


def reopen(image: Image.Image, **options: object) -> Image.Image:
    """Return an image as a client's file would give it."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return Image.open(io.BytesIO(buffer.getvalue()))


def half_white(mode: str, side: int = 64) -> Image.Image:
    """Return a black image whose right half is white."""
    image = Image.new(mode, (side, side), "black")
    image.paste("white", (side // 2, 0, side, side))
    return image


def test_an_opaque_alpha_channel_of_a_mask_does_not_count() -> None:
    """Canvases save RGBA: the white half is generated anew."""
    mask = pixels_of(normalize_image(reopen(half_white("RGBA")), "mask"))
    assert (mask[:, :32] == 0).all()
    assert (mask[:, 32:] == 255).all()


def test_transparent_parts_of_a_mask_count() -> None:
    """Whatever colour they have."""
    image = half_white("RGBA")
    image.paste((255, 255, 255, 0), (0, 0, 16, 16))
    mask = pixels_of(normalize_image(reopen(image), "mask"))
    assert (mask[:16, :16] == 255).all()
    assert mask.sum() == 255 * 16 * 16


def test_a_line_of_one_pixel_survives_in_a_large_mask() -> None:
    """Every marked pixel counts, at any scale."""
    mask = Image.new("L", (4096, 4096), 0)
    mask.paste(255, (1001, 0, 1002, 4096))
    reduced = pixels_of(normalize_image(mask, "mask"))
    assert reduced.shape == (MAX_SIDE_PX, MAX_SIDE_PX)
    assert (reduced[:, 250] == 255).all()
    assert reduced.sum() == 255 * MAX_SIDE_PX


def test_metadata_of_the_sender_does_not_survive() -> None:
    """Neither a large colour profile nor text; the pixels stay."""
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "private")
    image = reopen(half_white("RGB"), icc_profile=b"x" * 500_000, pnginfo=text)
    png = normalize_image(image, "image")
    assert len(png) < 5_000
    result = Image.open(io.BytesIO(png))
    result.load()
    assert result.info == {}
    assert (pixels_of(png)[:, 32:] == 255).all()


def test_a_text_chunk_called_transparency_is_text() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("transparency", "high")
    image = reopen(half_white("RGB"), pnginfo=text)
    image.load()
    assert (pixels_of(normalize_image(image, "image"))[:, :32] == 0).all()


@pytest.mark.parametrize("options", [{}, {"transparency": 40_000}])
def test_sixteen_bits_become_eight(options: dict[str, object]) -> None:
    """With and without a colour key."""
    values = np.linspace(0, 65_535, 64, dtype=np.uint16)
    image = reopen(Image.fromarray(np.tile(values, (64, 1))), **options)
    image.load()
    row = pixels_of(normalize_image(image, "image"))[0, :, 0]
    assert np.abs(row - np.linspace(0, 255, 64)).max() <= 1


def test_transparent_parts_become_white() -> None:
    image = Image.new("RGBA", (2000, 2000), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 1000, 2000))
    pixels = pixels_of(normalize_image(image, "image"))
    assert (pixels[:, 600:] == 255).all()
    assert (pixels[:, :400] == (0, 0, 255)).all()


def test_the_middle_square_counts() -> None:
    image = Image.new("RGB", (300, 100), "black")
    image.paste("white", (100, 0, 200, 100))
    assert (pixels_of(normalize_image(image, "image")) == 255).all()


def test_the_digest_is_of_pixels() -> None:
    """A file that was compressed anew has the same one."""
    png = normalize_image(half_white("RGB"), "image")
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).save(buffer, "PNG", optimize=True)
    assert buffer.getvalue() != png
    assert image_digest(buffer.getvalue()) == image_digest(png)
