"""Files of tensors, .safetensors and pickles, whose tensors are read one at a time."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

# Faults that an error names before it counts the rest.
MAX_FAULTS = 8


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file, the fault and the remedy."""


class TensorFile:
    """A .safetensors file: the shapes of its tensors by name, and each tensor on request."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(path, "pt") as file:
                names = list(file.keys())
                self.shapes = {name: torch.Size(file.get_slice(name).get_shape()) for name in names}
        except SafetensorError as error:
            raise CheckpointError(
                f"{path} is not a safetensors file, or is truncated: {error}"
            ) from error

    def read(self, key: str) -> Tensor:
        """Return a tensor in the mapped file.

        The file is mapped anew each time, because the pages read through a mapping count as this
        process's memory until the mapping ends."""
        with safe_open(self.path, "pt") as file:
            tensor: Tensor = file.get_tensor(key)
        return tensor


class PickledFile:
    """A .bin or .pth file with the interface of `TensorFile`.

    It is read as tensors only: no code in it runs."""

    def __init__(self, path: Path) -> None:
        try:
            contents = _load_pickle(path)
        except OSError:
            raise
        # A damaged pickle raises whatever its bytes happen to mean: IndexError, struct.error, …
        except Exception as error:
            raise CheckpointError(
                f"{path} contains other objects than tensors, or is truncated: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(contents, dict) or not all(isinstance(key, str) for key in contents):
            raise CheckpointError(
                f"{path} contains a {type(contents).__name__} instead of tensors by name"
            )
        self.contents: dict[str, Any] = contents
        self.shapes = {
            key: value.shape for key, value in self.contents.items() if isinstance(value, Tensor)
        }

    def read(self, key: str) -> Tensor:
        """Return a tensor."""
        tensor: Tensor = self.contents[key]
        return tensor


def _load_pickle(path: Path) -> Any:
    with warnings.catch_warnings():
        # torch warns of TorchScript files, which fail right after.
        warnings.simplefilter("ignore", UserWarning)
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:
            # A file older than torch 1.6 cannot be mapped.
            return torch.load(path, map_location="cpu", weights_only=True)


def open_tensors(path: Path) -> TensorFile | PickledFile:
    """Open a file of tensors by its suffix; raises CheckpointError for another content."""
    return TensorFile(path) if path.suffix == ".safetensors" else PickledFile(path)


def raise_for_faults(path: Path, faults: Sequence[str]) -> None:
    """Raise CheckpointError that names what does not fit, if anything does not."""
    if not faults:
        return
    message = "; ".join(sorted(faults)[:MAX_FAULTS])
    if len(faults) > MAX_FAULTS:
        message += f"; and {len(faults) - MAX_FAULTS} more"
    raise CheckpointError(f"{path} does not fit the network in config.json: {message}")
