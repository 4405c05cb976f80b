"""Mixed sources: each source has an equal part of every batch."""

from __future__ import annotations

import torch

from training.data.solids.scene_source import SceneSource
from training.data.sources import MixedSource
from training.trainer.step import Step, step_generator

CPU = torch.device("cpu")


def test_each_source_has_a_part_of_every_batch() -> None:
    """The parts are what the sources would give alone, with their own captions."""
    sources = (SceneSource("objects"), SceneSource("rest"))
    images, captions = MixedSource(sources).pairs(Step(3, 8, CPU, step_generator(0, 3)))
    generator = step_generator(0, 3)
    halves = [source.pairs(Step(3, 4, CPU, generator)) for source in sources]
    assert images.equal(torch.cat([half for half, _ in halves]))
    assert captions == [*halves[0][1], *halves[1][1]]
    assert not images[:4].equal(images[4:])


def test_statistics_use_the_first_source() -> None:
    """The first batches are those of the first source."""
    sources = (SceneSource("objects"), SceneSource("rest"))
    ((images, _),) = MixedSource(sources).first_batches(2, CPU)
    expected, _ = next(iter(sources[0].first_batches(2, CPU)))
    assert images.equal(expected)
