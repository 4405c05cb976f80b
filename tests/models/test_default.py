"""The embedded default checkpoint: its size, its defaults, and what its images show."""

from __future__ import annotations

from itertools import islice

import pytest

from models import UnCLIP
from models.checkpoints.checkpoint import DEFAULT_FOLDER
from training.evaluation.solids import scoring
from training.scenes.solids.classifier import load_classifier


@pytest.fixture(scope="module")
def default() -> UnCLIP:
    return UnCLIP.load()


def test_it_is_small_enough_for_the_repository() -> None:
    """It has at most 64 MB, and a card."""
    assert (
        sum(path.stat().st_size for path in DEFAULT_FOLDER.iterdir() if path.is_file())
        <= 64_000_000
    )
    assert "## Figures" in (DEFAULT_FOLDER / "CARD.md").read_text()


def test_it_generates_every_size_at_its_defaults(default: UnCLIP) -> None:
    """A request needs only a prompt."""
    assert default.sizes == (64, 256, 1024)
    image = default.generate(["a red cube on top of a blue cube"])[0]
    assert image.shape == (3, 256, 256)
    assert image.isfinite().all()


def test_places_have_their_brightness_and_colour(default: UnCLIP) -> None:
    """Snow is bright, grass is green and night is dark in the lower halves of eight images."""
    prompts = [
        "a red cube on snow by day",
        "a red cube on grass by day",
        "a red cube on snow at night",
    ]
    images = default.generate(
        [prompt for prompt in prompts for _ in range(8)], seeds=list(range(24)), size=64
    )
    snow, grass, night = images[:, :, 32:].unflatten(0, (3, 8)).mean((1, 3, 4))
    assert snow.min() > 0.2
    assert grass[1] > grass[0] + 0.02
    assert grass[1] > grass[2] + 0.2
    assert night.mean() < snow.mean() - 0.4


@pytest.mark.parametrize("name", ["one object", "compositional split", "count", "sign"])
def test_images_match_their_captions(default: UnCLIP, name: str) -> None:
    """The scene classifier finds nearly all held-out captions right, most signs and counts."""
    pairs = scoring.draw_test_captions(scoring.CAPTION_TYPES[name], "whole")
    captions = [caption for _, caption in islice(pairs, 12)]
    images = default.generate([caption.text for caption in captions], size=64)
    right = scoring.score(load_classifier(), images, captions)
    count = sum(right["word" if name == "sign" else "core"])
    assert count >= (8 if name in ("sign", "count") else 11), right


def test_a_negative_prompt_enables_guidance(default: UnCLIP) -> None:
    """The checkpoint's defaults have no guidance; a request's scale has precedence."""
    assert default.resolve().decoder_guidance_scale == 1
    assert default.resolve(negative_prompt="snow").decoder_guidance_scale > 1
    assert (
        default.resolve(negative_prompt="snow", decoder_guidance_scale=1.0).decoder_guidance_scale
        == 1
    )
