"""Images in tests."""

from __future__ import annotations

import io
import json
from typing import Any

from PIL import Image, PngImagePlugin


def load_png(content: bytes) -> Image.Image:
    """Decode an image file completely."""
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def read_provenance(content: bytes) -> dict[str, Any]:
    """Return how a PNG file was generated, from its text chunk."""
    image = load_png(content)
    assert isinstance(image, PngImagePlugin.PngImageFile)
    provenance: dict[str, Any] = json.loads(image.text["unclip"])
    return provenance
