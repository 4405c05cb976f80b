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


def provenance_fields(prompt: str, seed: int, **parameters: object) -> dict[str, object]:
    """Return the provenance of a generated image as a worker writes it into a PNG."""
    return {
        "operation": "generate",
        "seed": seed,
        "index": 0,
        "parameters": {"sampler": "ddim", **parameters},
        "inputs": {},
        "checkpoint": "tiny",
        "checkpoint_digest": "0",
        "version": "0",
        "torch": "0",
        "device": "cpu",
        "dtype": "float32",
        "prompt": prompt,
    }
