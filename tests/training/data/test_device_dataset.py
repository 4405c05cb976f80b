"""What a GPU learns from is the drawn world, and nothing else than a CPU learns from."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer

from training.data.crops import KeptCrops
from training.data.device_dataset import LENGTH, TOLD, Table, table
from training.data.scene_cache import to_float
from training.data.sources import World
from training.scenes.classifier import answers_of
from training.scenes.solids.captions import caption
from training.scenes.solids.scene import MIXES, scene
from training.trainer.trainer import Step

CPU = torch.device("cpu")
COUNT = 32


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Table:
    folder = tmp_path_factory.mktemp("table")
    made = table(folder, COUNT, "whole", "cpu", processes=1)
    again = table(
        folder, COUNT, "whole", "cpu", processes=0
    )  # of what is there nothing is drawn anew: it could not be
    assert torch.equal(made.images, again.images)
    return again


def step(number: int = 0, batch: int = 8, rank: int = 0, ranks: int = 1) -> Step:
    return Step(number, batch, CPU, torch.Generator().manual_seed(number), rank, ranks)


def test_its_images_and_answers_are_the_worlds(drawn: Table) -> None:
    world = World("whole")
    indices = list(range(COUNT))
    scenes = world.scenes(indices)
    assert (to_float(drawn.images) - world.images(indices, scenes, CPU)).abs().max() <= 1 / 127.5
    assert torch.equal(drawn.answers.long(), answers_of(scenes))


def test_its_tokens_are_captions_of_their_scenes(drawn: Table) -> None:
    """Those that training may read, between the tokens that begin and end one."""
    tokenizer = SimpleTokenizer()
    for index in range(COUNT):
        rng = random.Random(index)
        for told in range(TOLD):
            text = caption(scene(index, MIXES["whole"]), rng).text
            ids = [tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id]
            assert drawn.tokens[index, told].tolist() == ids + [0] * (LENGTH - len(ids))


def test_a_batch_is_twins_with_captions_of_their_own_and_shared_by_the_processes(
    drawn: Table,
) -> None:
    images, tokens = drawn.pairs(step(3))
    rows = [
        next(row for row in range(COUNT) if torch.equal(to_float(drawn.images[row]), image))
        for image in images
    ]
    assert [row // 2 for row in rows[::2]] == [row // 2 for row in rows[1::2]]
    assert len(set(rows)) > 2
    assert all(
        any(torch.equal(one.long(), said) for one in drawn.tokens[row])
        for row, said in zip(rows, tokens, strict=True)
    )
    halves = [drawn.pairs(step(3, rank=rank, ranks=2))[0] for rank in (0, 1)]
    assert torch.equal(torch.cat(halves), images)


def test_kept_crops_come_with_small_versions_of_themselves(tmp_path: Path) -> None:
    """Mirrored where they are."""
    large = torch.arange(4)[:, None, None, None] * 20 + torch.arange(64).mul(2).expand(4, 3, 64, 64)
    large = large.to(torch.uint8)
    small = (
        F.avg_pool2d(large.float(), 4).round().to(torch.uint8)[:, None].expand(-1, 2, -1, -1, -1)
    )
    for kept in (KeptCrops(large, small, 1024), KeptCrops(large, None, 256)):
        x_0, low = kept.pairs(step(1))
        near = (F.avg_pool2d(x_0, 4) - low).abs().mean()
        assert near < 0.2 * (F.avg_pool2d(x_0.flip(3), 4) - low).abs().mean()
