"""The embedded default checkpoint: small, whole, and of the drawn world."""

from __future__ import annotations

import pytest
import torch

from models import UnCLIP
from models.checkpoint import DEFAULT_FOLDER


@pytest.fixture(scope="module")
def default() -> UnCLIP:
    return UnCLIP.load()


def test_it_is_small_enough_to_live_in_the_repository() -> None:
    """64 MB in all, with a card."""
    assert sum(path.stat().st_size for path in DEFAULT_FOLDER.iterdir() if path.is_file()) <= 64_000_000
    assert "## Figures" in (DEFAULT_FOLDER / "CARD.md").read_text()


def test_it_draws_every_size_at_its_own_defaults(default: UnCLIP) -> None:
    """Nothing has to be said but the prompt."""
    assert default.sizes == (64, 256, 1024)
    picture = default.generate(["a red cube on top of a blue cube"])[0]
    assert picture.shape == (3, 256, 256) and picture.isfinite().all()


def test_places_look_as_they_are_called(default: UnCLIP) -> None:
    """Snow is bright, grass is green, night is dark: by the lower halves' mean over eight pictures of each."""
    prompts = ["a red cube on snow by day", "a red cube on grass by day", "a red cube on snow at night"]
    pictures = default.generate([prompt for prompt in prompts for _ in range(8)], seeds=list(range(24)), size=64)
    snow, grass, night = pictures[:, :, 32:].unflatten(0, (3, 8)).mean((1, 3, 4))
    assert snow.min() > 0.2
    assert grass[1] > grass[0] + 0.02 and grass[1] > grass[2] + 0.2
    assert night.mean() < snow.mean() - 0.4


def test_a_thing_has_the_colour_that_was_said(default: UnCLIP) -> None:
    """Red and blue things on white snow, told by which colour the middle lacks: at least 14 of 16."""
    colours = {"red": (0, 2), "blue": (2, 0)}
    prompts = [f"a {colour} {shape} on snow" for colour in colours for shape in ("cube", "sphere")] * 4
    pictures = default.generate(prompts, seeds=list(range(16)), size=64)
    right = 0
    for prompt, picture in zip(prompts, pictures, strict=True):
        most, least = colours[prompt.split()[1]]
        excess = picture[most] - picture[least]
        right += int(torch.quantile(excess.flatten(), 0.98) > 0.4 and excess.amax() > -excess.amin())
    assert right >= 14, right
