"""What a GPU learns from is the drawn world, and nothing else than a CPU learns from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer

from training.captions import caption, held_out
from training.data import World
from training.loop import Step
from training.pool import to_float
from training.reader import Drawings, answers_of
from training.scene import MIXES, scene
from training.table import TOLD, Table, table
from training.upsampling import Crops, KeptCrops, corrupt, crop_pool

CPU = torch.device("cpu")
COUNT = 32


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Table:
    return table(tmp_path_factory.mktemp("table"), COUNT, "whole", "cpu", processes=1)


def step(number: int = 0, batch: int = 8) -> Step:
    return Step(number, batch, CPU, torch.Generator().manual_seed(number))


def test_its_pictures_and_answers_are_the_worlds(drawn: Table) -> None:
    world, indices = World("whole"), list(range(COUNT))
    scenes = world.scenes(indices)
    assert (to_float(drawn.pictures) - world.images(indices, scenes, CPU)).abs().max() <= 1 / 127.5
    assert torch.equal(drawn.answers.long(), answers_of(scenes))


def test_its_tokens_are_captions_of_their_scenes_that_training_may_read(drawn: Table) -> None:
    """Several of each, and none of those kept for evaluation."""
    tokenizer = SimpleTokenizer()
    for index in range(COUNT):
        texts = {
            tokenizer.decode(told[told > 0].tolist()).replace("<start_of_text>", "").replace("<end_of_text>", "").strip()
            for told in drawn.tokens[index]
        }
        assert 1 <= len(texts) <= TOLD
        shown = scene(index, MIXES["whole"])
        said = set()
        import random

        rng = random.Random(index)
        for _ in range(TOLD):
            text = caption(shown, rng).text
            assert not held_out(text) or text.endswith(shown.style)
            said.add(tokenizer.decode(tokenizer.encode(text)).strip())
        assert texts == said
