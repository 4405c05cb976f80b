"""Tensors and image files: what goes into a PNG comes out of it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from support.images import load_png
from torch import Tensor

from contracts.provenance import TEXT_KEY
from worker.jobs.images import encode_png

PROVENANCE: dict[str, Any] = {
    "prompt": 'ein "roter" Würfel 🟥\n',
    "seed": 2**32 - 1,
    "parameters": {"size": 5, "eta": 0.1},
}


def image() -> Tensor:
    """Random pixels, 4 high and 5 wide."""
    return torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_every_level_survives() -> None:
    """-1 is 0, 1 is 255; rows, columns and channels keep their order."""
    levels = torch.arange(256).view(16, 16)
    expected = torch.stack([levels, levels.T, 255 - levels])
    png = load_png(encode_png(expected / 127.5 - 1, {}))
    assert png.format == "PNG"
    assert png.mode == "RGB"
    assert np.array_equal(np.asarray(png), expected.permute(1, 2, 0).numpy())


def test_height_and_width_are_not_swapped() -> None:
    """`[3, H, W]` becomes W by H pixels."""
    assert load_png(encode_png(image(), {})).size == (5, 4)


@pytest.mark.parametrize(
    ("value", "level"), [(-3.0, 0), (3.0, 255), (0.0, 128), (1 / 255, 128), (-1.01 / 255, 127)]
)
def test_values_are_clamped_and_rounded(value: float, level: int) -> None:
    """A value just over 1 must not wrap around to black."""
    png = load_png(encode_png(torch.full((3, 2, 2), value), {}))
    assert png.getpixel((0, 0)) == (level,) * 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_float_type_is_accepted(dtype: torch.dtype) -> None:
    """The image is that of the same numbers in single precision, and the tensor is unchanged."""
    values = image().to(dtype)
    before = values.clone()
    assert encode_png(values, {}) == encode_png(values.float(), {})
    assert torch.equal(values, before)


def test_the_same_image_and_provenance_give_the_same_bytes() -> None:
    """In any order of the provenance's fields; another image or provenance gives other bytes."""
    reversed_fields = dict(reversed(PROVENANCE.items()))
    png = encode_png(image(), PROVENANCE)
    assert png == encode_png(image().clone(), reversed_fields)
    assert png != encode_png(-image(), PROVENANCE)
    assert png != encode_png(image(), PROVENANCE | {"seed": 1})


def test_the_provenance_is_a_text_chunk() -> None:
    """Any PNG reader finds it, and it is JSON, whatever characters the prompt has."""
    content = encode_png(image(), PROVENANCE)
    assert b"tEXt" + TEXT_KEY.encode() + b"\0" in content
    assert json.loads(load_png(content).text[TEXT_KEY]) == PROVENANCE  # type: ignore[attr-defined]
