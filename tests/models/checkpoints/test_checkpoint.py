"""Checkpoint folders load strictly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.checkpoints.checkpoint import load, save
from models.checkpoints.tensor_files import CheckpointError


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint, copy)
    return copy


def test_a_saved_checkpoint_loads_equal(folder: Path, tmp_path: Path) -> None:
    """Files are in fp16, and memory is in fp32."""
    first = load(folder)
    save(
        tmp_path / "again",
        {k: v for k, v in first.config.items() if k != "format"},
        first.networks,
        "card",
    )
    second = load(tmp_path / "again")
    for part, network in first.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, second.networks[part].state_dict()[key]), (part, key)
            assert value.dtype in (torch.float32, torch.int64)


def test_other_users_may_read_a_saved_checkpoint(folder: Path) -> None:
    """A worker in a container runs as another user."""
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in folder.iterdir())


def test_every_wrong_tensor_is_named(folder: Path) -> None:
    """One message lists missing, unexpected and misshapen tensors."""
    tensors = load_file(folder / "prior.safetensors")
    tensors["extra"] = torch.zeros(2)
    tensors["query"] = torch.zeros(3)
    del tensors["out.bias"]
    save_file(tensors, folder / "prior.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    message = str(caught.value)
    assert "prior.safetensors" in message
    assert "missing out.bias [16]" in message
    assert "unexpected extra [2]" in message
    assert "query is [3], the network has [16]" in message


def test_a_checkpoint_may_lack_an_upsampler(folder: Path) -> None:
    """The other sizes stay available."""
    config = json.loads((folder / "config.json").read_text())
    del config["upsampler_1024"]
    (folder / "config.json").write_text(json.dumps(config))
    assert "upsampler_1024" not in load(folder).networks


def test_an_autoregressive_prior_needs_its_basis(folder: Path) -> None:
    """Without this prior the basis is optional."""
    config = json.loads((folder / "config.json").read_text())
    del config["pca"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError, match="an ar_prior of 6 principal components and a pca of 0"
    ):
        load(folder)
    del config["ar_prior"]
    (folder / "config.json").write_text(json.dumps(config))
    assert not {"pca", "ar_prior"} & load(folder).networks.keys()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "clip.safetensors").unlink(), "clip.safetensors is missing"),
        (lambda f: (f / "clip.safetensors").write_bytes(b"nonsense"), "truncated"),
        (lambda f: (f / "config.json").write_text("{"), "is not JSON"),
        (lambda f: (f / "config.json").write_text('{"format": 99}'), "format 99"),
        (
            lambda f: (f / "config.json").write_text('{"format": 1, "name": "x"}'),
            "lacks defaults, clip",
        ),
    ],
)
def test_a_broken_folder_is_an_error(folder: Path, spoil: object, message: str) -> None:
    """The message names the file and the fault."""
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=message):
        load(folder)
