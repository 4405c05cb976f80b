"""Images at the door: what goes into a PNG comes out of it."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from worker.jobs.images import TEXT_KEY, png

PROVENANCE: dict[str, Any] = {
    "prompt": 'ein "roter" Würfel 🟥\n',
    "seed": 2**32 - 1,
    "parameters": {"size": 5, "eta": 0.1},
}


def opened(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def image() -> Tensor:
    return torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_every_level_round_trips() -> None:
    """-1 is 0, 1 is 255, and each of the 256 levels comes back, the right way up and red first."""
    levels = torch.arange(256).view(16, 16)
    wanted = torch.stack([levels, levels.T, 255 - levels])
    image = opened(png(wanted / 127.5 - 1, {}))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (16, 16))
    assert np.array_equal(np.asarray(image), wanted.permute(1, 2, 0).numpy())


def test_width_and_height_are_not_swapped() -> None:
    """`[3, H, W]` becomes W by H pixels."""
    assert opened(png(image(), {})).size == (5, 4)


@pytest.mark.parametrize(
    ("value", "level"), [(-3.0, 0), (3.0, 255), (0.0, 128), (1 / 255, 128), (-1.01 / 255, 127)]
)
def test_values_are_clamped_and_rounded_not_wrapped(value: float, level: int) -> None:
    """A value just over 1 must not become black."""
    assert opened(png(torch.full((3, 2, 2), value), {})).getpixel((0, 0)) == (level,) * 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_will_do(dtype: torch.dtype) -> None:
    """A pipeline in half precision gives the image its numbers mean, and its tensor stays as it was."""
    given = image().to(dtype)
    before = given.clone()
    assert png(given, {}) == png(given.float(), {})
    assert torch.equal(given, before)


def test_the_same_image_and_provenance_give_the_same_bytes() -> None:
    """In whatever order the provenance's fields come; another image or provenance gives others."""
    turned = dict(reversed(PROVENANCE.items()))
    assert png(image(), PROVENANCE) == png(image().clone(), turned)
    assert png(image(), PROVENANCE) != png(-image(), PROVENANCE)
    assert png(image(), PROVENANCE) != png(image(), PROVENANCE | {"seed": 1})


def test_the_provenance_stands_in_a_text_chunk() -> None:
    """Any PNG reader finds it, whatever characters the prompt has, and it is JSON."""
    content = png(image(), PROVENANCE)
    assert b"tEXt" + TEXT_KEY.encode() + b"\0" in content
    assert json.loads(opened(content).text[TEXT_KEY]) == PROVENANCE  # type: ignore[attr-defined]
