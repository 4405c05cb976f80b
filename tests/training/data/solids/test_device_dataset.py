"""A GPU's dataset has the same scenes, captions and labels as a CPU's."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer

from training.data.solids.device_dataset import (
    CAPTIONS_PER_SCENE,
    MAX_TOKENS,
    DeviceDataset,
    load_device_dataset,
)
from training.data.solids.scene_source import SceneSource
from training.scenes.pixels import to_float
from training.scenes.solids.captions import draw_caption
from training.scenes.solids.labels import encode_labels
from training.scenes.solids.scene import MIXES, draw_scene
from training.trainer.step import Step

CPU = torch.device("cpu")
COUNT = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def dataset(folder: Path) -> DeviceDataset:
    return load_device_dataset(folder, COUNT, "whole", "cpu", processes=1)


def build_step(number: int = 0, batch: int = 8, rank: int = 0, world_size: int = 1) -> Step:
    return Step(number, batch, CPU, torch.Generator().manual_seed(number), rank, world_size)


def test_a_dataset_is_rendered_once(folder: Path, dataset: DeviceDataset) -> None:
    """The files are read again; without processes nothing could be rendered."""
    again = load_device_dataset(folder, COUNT, "whole", "cpu", processes=-1)
    assert torch.equal(dataset.images, again.images)


def test_images_and_labels_are_those_of_the_scenes(dataset: DeviceDataset) -> None:
    """Images are rounded to bytes."""
    source = SceneSource("whole")
    indices = list(range(COUNT))
    scenes = source.draw_scenes(indices)
    expected = source.load_images(indices, scenes, CPU)
    assert (to_float(dataset.images) - expected).abs().max() <= 1 / 127.5
    assert torch.equal(dataset.labels.long(), encode_labels(scenes))


def test_tokens_are_captions_of_the_scenes(dataset: DeviceDataset) -> None:
    """They are captions for training, with start and end tokens."""
    tokenizer = SimpleTokenizer()
    for index in range(COUNT):
        rng = random.Random(index)
        for number in range(CAPTIONS_PER_SCENE):
            text = draw_caption(draw_scene(index, MIXES["whole"]), rng).text
            ids = [tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id]
            padding = [0] * (MAX_TOKENS - len(ids))
            assert dataset.tokens[index, number].tolist() == ids + padding


def test_a_batch_has_twins_with_their_captions(dataset: DeviceDataset) -> None:
    """Consecutive images are twins, and each has one of its scene's captions."""
    images, tokens = dataset.pairs(build_step(3))
    rows = [
        next(row for row in range(COUNT) if torch.equal(to_float(dataset.images[row]), image))
        for image in images
    ]
    assert [row // 2 for row in rows[::2]] == [row // 2 for row in rows[1::2]]
    assert len(set(rows)) > 2
    for row, caption in zip(rows, tokens, strict=True):
        assert any(torch.equal(each.long(), caption) for each in dataset.tokens[row])


def test_two_processes_share_a_batch(dataset: DeviceDataset) -> None:
    """Their images together are those of a single process."""
    images, _ = dataset.pairs(build_step(3))
    halves = [dataset.pairs(build_step(3, rank=rank, world_size=2))[0] for rank in (0, 1)]
    assert torch.equal(torch.cat(halves), images)
