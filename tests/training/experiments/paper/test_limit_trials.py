"""Captions of the limits experiment are true of their scenes."""

from __future__ import annotations

import random

from training.evaluation.solids.generation import render_scenes
from training.evaluation.solids.scoring import score
from training.experiments.harness import Bench
from training.experiments.paper.limit_trials import draw_binding_trials, draw_detailed_trials


def test_renderings_match_their_captions(bench: Bench) -> None:
    """Most renderings show their caption, and hardly any the one with swapped colours."""
    rng = random.Random(0)
    trials = [
        trial
        for same_shape in (True, False)
        for trial in draw_binding_trials(24, rng, same_shape=same_shape)
    ]
    images = render_scenes([trial.scene for trial in trials])
    swapped = [trial.swapped for trial in trials if trial.swapped is not None]
    right = score(bench.classifier, images, [trial.caption for trial in trials])["core"]
    assert sum(right) >= 38
    assert sum(score(bench.classifier, images, swapped)["core"]) <= 2


def test_captions_have_all_their_details() -> None:
    """Ten details include place and time."""
    for trial in draw_detailed_trials(10, 4, random.Random(0)):
        assert {"place", "time"} <= trial.caption.claims.keys()
        assert trial.caption.text.count(" ") > 10
