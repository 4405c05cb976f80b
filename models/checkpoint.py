"""A checkpoint is a folder: config.json, a .safetensors file a network, and CARD.md.

Weights lie on disk in fp16 and are loaded strictly: a tensor that is missing, left over or of another shape is an
error that names it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.ar_prior import AutoregressivePrior, AutoregressivePriorConfig
from models.clip import CLIP
from models.decoder import Decoder, DecoderConfig
from models.pca import PCA, PCAConfig
from models.prior import DiffusionPrior, PriorConfig
from models.upsampler import Upsampler, UpsamplerConfig

FORMAT = 1
DEFAULT_FOLDER = Path(__file__).parent / "default"
REQUIRED = ("clip", "prior", "decoder")
OPTIONAL = ("pca", "ar_prior")
UPSAMPLERS = {256: "upsampler_256", 1024: "upsampler_1024"}
PARTS = (*REQUIRED, *OPTIONAL, *UPSAMPLERS.values())
BASE_SIZE = 64


class CheckpointError(ValueError):
    """A checkpoint folder that cannot be used; the message says which file, what is wrong and what would do."""


@dataclass
class Checkpoint:
    """The networks of a stack with their configs. `defaults` holds what a request leaves open."""

    name: str
    config: dict[str, Any]
    networks: dict[str, nn.Module] = field(default_factory=dict)

    @property
    def defaults(self) -> dict[str, Any]:
        values: dict[str, Any] = self.config["defaults"]
        return values


def build(name: str, config: dict[str, Any]) -> nn.Module:
    """The network of this name (as in config.json) with fresh weights."""
    if name == "clip":
        return CLIP(config)
    if name == "prior":
        return DiffusionPrior(PriorConfig(**config))
    if name == "decoder":
        return Decoder(DecoderConfig(**config))
    if name == "pca":
        return PCA(PCAConfig(**config))
    if name == "ar_prior":
        return AutoregressivePrior(AutoregressivePriorConfig(**config))
    if name in UPSAMPLERS.values():
        return Upsampler(UpsamplerConfig(**config))
    raise CheckpointError(
        f"config.json names an unknown network {name!r}: known are {', '.join((*REQUIRED, *OPTIONAL, *UPSAMPLERS.values()))}"
    )


def load(folder: Path | str | None = None, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint folder (None: the embedded default) in fp32 onto `device`, ready to sample."""
    folder = DEFAULT_FOLDER if folder is None else Path(folder)
    config = _config(folder)
    parts = [part for part in PARTS if part in config]
    networks = {}
    for part in parts:
        network = build(part, config[part])
        load_strictly(network, folder / f"{part}.safetensors")
        networks[part] = network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
    return Checkpoint(config["name"], config, networks)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.exists():
        raise CheckpointError(f"{folder} is not a checkpoint folder: it has no config.json")
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if config.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {config.get('format')!r}: this version reads format {FORMAT}")
    missing = [key for key in ("name", "defaults", *REQUIRED) if key not in config]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}")
    said, kept = (config.get(part, {}).get("components", 0) for part in ("ar_prior", "pca"))
    if said > kept:
        raise CheckpointError(f"{path} has an ar_prior of {said} principal components and a pca that keeps {kept}: it needs as many")
    return config


def load_strictly(network: nn.Module, path: Path) -> None:
    """Fill a network from a file, every tensor of both and nothing else."""
    if not path.exists():
        raise CheckpointError(f"{path} is missing: config.json names this network")
    stored = read(path)
    wanted = network.state_dict()
    faults = [f"missing {key} {list(wanted[key].shape)}" for key in wanted.keys() - stored.keys()]
    faults += [f"unexpected {key} {list(stored[key].shape)}" for key in stored.keys() - wanted.keys()]
    faults += [
        f"{key} is {list(stored[key].shape)}, the network has {list(wanted[key].shape)}"
        for key in wanted.keys() & stored.keys()
        if stored[key].shape != wanted[key].shape
    ]
    refuse(path, faults)
    network.load_state_dict({key: value.to(wanted[key].dtype) for key, value in stored.items()})


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file."""
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file, or is cut short: {error}") from error
    return tensors


def refuse(path: Path, faults: list[str]) -> None:
    """CheckpointError that names what does not fit, if anything does not."""
    if faults:
        shown = "; ".join(sorted(faults)[:8]) + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
        raise CheckpointError(f"{path} does not fit the network in config.json: {shown}")


def halved(network: nn.Module) -> dict[str, Tensor]:
    """A network's tensors as they lie on disk: fp16 where they are floating."""
    return {key: (value.half() if value.is_floating_point() else value).contiguous() for key, value in network.state_dict().items()}


def save(folder: Path, config: dict[str, Any], networks: dict[str, nn.Module], card: str) -> None:
    """Write a checkpoint folder: floating tensors in fp16, config.json with the format added, CARD.md."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, network in networks.items():
        save_file(halved(network), folder / f"{part}.safetensors")
    (folder / "config.json").write_text(json.dumps({"format": FORMAT, **config}, indent=2) + "\n")
    (folder / "CARD.md").write_text(card)
