"""Images in tests."""

from __future__ import annotations

import io

from PIL import Image


def load_png(content: bytes) -> Image.Image:
    """Decode an image file completely."""
    image = Image.open(io.BytesIO(content))
    image.load()
    return image
