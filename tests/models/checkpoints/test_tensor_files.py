"""Files of tensors: whatever a file contains, the error is a CheckpointError that names it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from models.checkpoints.tensor_files import CheckpointError, PickledFile, open_tensors


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of a pickled file."""
    return tmp_path / "pytorch_model.bin"


def test_a_pickle_of_tensors_is_read(path: Path) -> None:
    """Objects other than tensors in it have no shape."""
    torch.save({"a": torch.ones(2, 3), "step": 7}, path)
    file = open_tensors(path)
    assert file.shapes == {"a": torch.Size((2, 3))}
    assert torch.equal(file.read("a"), torch.ones(2, 3))


@pytest.mark.parametrize("content", [[1], torch.ones(2), "text", None, {1: torch.ones(2)}])
def test_other_contents_are_an_error(path: Path, content: Any) -> None:
    """A list has no names, and a number is none."""
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=f"{path.name} contains a .* instead of tensors"):
        PickledFile(path)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_damaged_pickles_are_an_error(path: Path, is_zip: bool) -> None:
    """Wherever the damage is: truncated, overwritten, or other bytes from the start."""
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=is_zip)
    content = path.read_bytes()
    generator = random.Random(0)
    messages = set()
    for attempt in range(150):
        damaged = bytearray(content)
        if attempt % 3 == 0:
            damaged = damaged[: generator.randrange(len(damaged))]
        elif attempt % 3 == 1:
            for _ in range(10):
                damaged[generator.randrange(min(len(damaged), 500))] = generator.randrange(256)
        else:
            damaged = bytearray(b"\x80\x02" + generator.randbytes(generator.randrange(60)))
        path.write_bytes(damaged)
        try:
            PickledFile(path)
        except CheckpointError as error:
            messages.add(str(error))
    assert len(messages) > 10
    assert all(str(path) in message for message in messages)


def test_a_missing_file_stays_a_missing_file(path: Path) -> None:
    """Its error is the operating system's."""
    with pytest.raises(FileNotFoundError):
        PickledFile(path)
