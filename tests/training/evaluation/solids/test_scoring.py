"""Test captions make the claims that count, and signs are read by comparison."""

from __future__ import annotations

from itertools import islice

import pytest

from training.evaluation.solids import generation, scoring
from training.scenes.solids.labels import expected_labels
from training.scenes.solids.scene import WORDS


@pytest.mark.parametrize("name", scoring.DETAIL_TYPES)
def test_captions_of_a_detail_claim_it(name: str) -> None:
    """Each caption occurs once."""
    caption_type = scoring.DETAIL_TYPES[name]
    pairs = islice(scoring.draw_test_captions(caption_type, "objects"), 8)
    captions = [caption for _, caption in pairs]
    assert len({caption.text for caption in captions}) == 8
    for caption in captions:
        assert set(caption_type.checked_questions) <= expected_labels(caption).keys()


def test_a_signs_word_is_legible_in_its_rendering() -> None:
    """Nearly all renderings show their own word, and none another one."""
    pairs = list(islice(scoring.draw_test_captions(scoring.CAPTION_TYPES["sign"], "objects"), 24))
    images = generation.render_scenes([scene for scene, _ in pairs])
    words = [str(caption.claims["word"]) for _, caption in pairs]
    right = [
        scoring.sign_is_legible(image, word) for image, word in zip(images, words, strict=True)
    ]
    assert sum(right) >= 22
    others = [
        image for image, word in zip(images, words, strict=True) if word in {*WORDS} - {"HELLO"}
    ]
    assert len(others) > 10
    assert not any(scoring.sign_is_legible(image, "HELLO") for image in others)
