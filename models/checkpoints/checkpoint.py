"""A checkpoint is a folder: config.json, a .safetensors file a network, and CARD.md.

Weights lie on disk in fp16 and are loaded strictly: a tensor that is missing, left over or of another shape is an
error that names it. They go from the file to their device one at a time, so that no second copy of a network is held.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from models.networks.priors.autoregressive import AutoregressivePrior, AutoregressivePriorConfig
from models.networks.clip import CLIP
from models.networks.decoder import Decoder, DecoderConfig
from models.networks.priors.pca import PCA, PCAConfig
from models.networks.priors.diffusion import DiffusionPrior, PriorConfig
from models.networks.two_tower_clip import TwoTowerCLIP
from models.networks.upsampler import Upsampler, UpsamplerConfig

FORMAT = 1
DEFAULT_FOLDER = Path(__file__).parents[1] / "default"
REQUIRED = ("clip", "prior", "decoder")
OPTIONAL = ("pca", "ar_prior")
UPSAMPLERS = {256: "upsampler_256", 1024: "upsampler_1024"}
PARTS = (*REQUIRED, *OPTIONAL, *UPSAMPLERS.values())
BASE_SIZE = 64
WORDPIECES = "wordpieces.json"  # of a two-tower CLIP's text encoder
DIGESTED = (".json", ".safetensors", ".bin")


class CheckpointError(ValueError):
    """A checkpoint folder that cannot be used; the message says which file, what is wrong and what would do."""


@dataclass
class Checkpoint:
    """The networks of a pipeline with their configs. `defaults` holds what a request leaves open."""

    name: str
    config: dict[str, Any]
    networks: dict[str, nn.Module] = field(default_factory=dict)

    @property
    def defaults(self) -> dict[str, Any]:
        values: dict[str, Any] = self.config["defaults"]
        return values


def build(name: str, config: dict[str, Any]) -> nn.Module:
    """Build the network of this name (as in config.json) with fresh weights.

    A two-tower CLIP's config also holds its "vocabulary", which `load_network` reads from `WORDPIECES`."""
    if name == "clip":
        return TwoTowerCLIP(config) if "text_tower" in config else CLIP(config)
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


def build_empty(name: str, config: dict[str, Any]) -> nn.Module:
    """`build`, with parameters that have shapes and no memory, for `fill`. Buffers are real: some are constants that no file has."""
    hook = register_module_parameter_registration_hook(
        lambda module, name, parameter: nn.Parameter(parameter.to("meta"), requires_grad=False)  # type: ignore[arg-type]
    )
    try:
        return build(name, config)
    finally:
        hook.remove()


def load(
    folder: Path | str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Checkpoint:
    """Read a checkpoint folder (None: the embedded default) onto `device`, ready to sample; `dtype` as in `fill`."""
    folder = DEFAULT_FOLDER if folder is None else Path(folder)
    config = read_config(folder)
    networks = {
        part: load_network(folder, part, config[part], device, dtype)
        for part in PARTS
        if part in config
    }
    return Checkpoint(config["name"], config, networks)


def load_network(
    folder: Path,
    part: str,
    config: dict[str, Any],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """One network of a checkpoint folder."""
    path = folder / f"{part}.safetensors"
    if not path.exists():
        raise CheckpointError(f"{path} is missing: config.json names this network")
    if "text_tower" in config:
        config = config | {"vocabulary": read_wordpieces(folder)}
    network = build_empty(part, config)
    file = TensorFile(path)
    wanted = {key: value.shape for key, value in network.state_dict().items()}
    faults = [f"missing {key} {list(wanted[key])}" for key in wanted.keys() - file.shapes.keys()]
    faults += [
        f"unexpected {key} {list(file.shapes[key])}" for key in file.shapes.keys() - wanted.keys()
    ]
    faults += [
        f"{key} is {list(file.shapes[key])}, the network has {list(wanted[key])}"
        for key in wanted.keys() & file.shapes.keys()
        if file.shapes[key] != wanted[key]
    ]
    refuse(path, faults)
    return fill(network, file.read, device, dtype)


def fill(
    network: nn.Module,
    value_of: Callable[[str], Tensor],
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = torch.float32,
) -> nn.Module:
    """Give a network from `build_empty` its tensors by name, one at a time, and make it ready to sample on `device`.

    Parameters come in `dtype`, as they are stored where it is None. Buffers and CLIP's temperature keep fp32: they are a few
    statistics and constants that z_i and probabilities are scaled by. There is no need to except the norms: torch sums their
    statistics in fp32 whatever they are given."""
    parameters = {name for name, parameter in network.named_parameters() if parameter.dim()}
    values = {}
    for key, own in network.state_dict().items():
        value = value_of(key)
        kind = own.dtype if key not in parameters else dtype or value.dtype
        layout = torch.channels_last if value.dim() == 4 else torch.contiguous_format
        # A copy always: a tensor that lay in the mapped file would change, or end the process, with the file.
        values[key] = value.to(device, kind, copy=True, memory_format=layout)
    network.load_state_dict(values, assign=True)
    return network.to(device).eval().requires_grad_(False)


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint folder's config.json. CheckpointError for one that cannot be."""
    path = folder / "config.json"
    if not path.exists():
        raise CheckpointError(f"{folder} is not a checkpoint folder: it has no config.json")
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if config.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {config.get('format')!r}: this version reads format {FORMAT}"
        )
    missing = [key for key in ("name", "defaults", *REQUIRED) if key not in config]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}")
    said, kept = (config.get(part, {}).get("components", 0) for part in ("ar_prior", "pca"))
    if said > kept:
        raise CheckpointError(
            f"{path} has an ar_prior of {said} principal components and a pca that keeps {kept}: it needs as many"
        )
    return config


def read_wordpieces(folder: Path) -> list[str]:
    """Read the pieces of a two-tower CLIP's tokenizer. CheckpointError for a file that is missing or no list of strings."""
    path = folder / WORDPIECES
    try:
        pieces: list[str] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: the text encoder needs its vocabulary") from error
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
        raise CheckpointError(f"{path} is not a list of strings")
    return pieces


class TensorFile:
    """A .safetensors file: `shapes` of its tensors by name, and the numbers of each when they are asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(path, "pt") as file:
                self.shapes = {
                    key: torch.Size(file.get_slice(key).get_shape()) for key in file.keys()
                }  # noqa: SIM118  (no dict)
        except SafetensorError as error:
            raise CheckpointError(
                f"{path} is not a safetensors file, or is cut short: {error}"
            ) from error

    def read(self, key: str) -> Tensor:
        """A tensor that lies in the mapped file. Mapped anew each time: what was read of a mapping counts as this process's
        memory until the mapping ends."""
        with safe_open(self.path, "pt") as file:
            tensor: Tensor = file.get_tensor(key)
        return tensor


class PickledFile:
    """What `TensorFile` is, of a .bin or .pth file. It is read as tensors only: nothing in it is run."""

    def __init__(self, path: Path) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", UserWarning
                )  # of TorchScript, which is refused right after
                try:
                    tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
                except RuntimeError:  # a file older than torch 1.6 cannot be mapped
                    tensors = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise CheckpointError(
                f"{path} holds something else than tensors, or is cut short: {error}"
            ) from error
        self.contents: dict[str, Any] = tensors
        self.shapes = {
            key: value.shape for key, value in tensors.items() if isinstance(value, Tensor)
        }

    def read(self, key: str) -> Tensor:
        tensor: Tensor = self.contents[key]
        return tensor


def open_tensors(path: Path) -> TensorFile | PickledFile:
    """A file of tensors, by its suffix. CheckpointError for one that is none."""
    return TensorFile(path) if path.suffix == ".safetensors" else PickledFile(path)


def refuse(path: Path, faults: list[str]) -> None:
    """CheckpointError that names what does not fit, if anything does not."""
    if faults:
        shown = "; ".join(sorted(faults)[:8]) + (
            f"; and {len(faults) - 8} more" if len(faults) > 8 else ""
        )
        raise CheckpointError(f"{path} does not fit the network in config.json: {shown}")


def digest(*places: Path | str) -> str:
    """SHA-256, in hex, of checkpoint folders and files: of the lines that sha256sum prints for their configs and weights, by path.
    The card does not count. A stranger finds the same by `sha256sum *.json *.safetensors | LC_ALL=C sort -k2 | sha256sum`."""
    lines = ""
    for place in map(Path, places):
        files = (
            [place]
            if place.is_file()
            else sorted(
                path for path in place.rglob("*") if path.suffix in DIGESTED and path.is_file()
            )
        )
        for path in files:
            name = path.name if path == place else path.relative_to(place).as_posix()
            with path.open("rb") as file:
                lines += f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n"
    return hashlib.sha256(lines.encode()).hexdigest()


def halved(network: nn.Module) -> dict[str, Tensor]:
    """A network's tensors as they lie on disk: fp16 where they are floating."""
    return {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in network.state_dict().items()
    }


def save(
    folder: Path, config: dict[str, Any], networks: Mapping[str, nn.Module], card: str
) -> None:
    """Write a checkpoint folder: floating tensors in fp16, config.json with the format added, CARD.md."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, network in networks.items():
        path = folder / f"{part}.safetensors"
        save_file(halved(network), path)
        path.chmod(
            0o644
        )  # safetensors keeps it to its owner, and a worker in a container is another
    save_texts(folder, config, card)


def save_texts(folder: Path, config: dict[str, Any], card: str) -> None:
    """Write what a checkpoint folder has beside its networks."""
    (folder / "config.json").write_text(json.dumps({"format": FORMAT, **config}, indent=2) + "\n")
    (folder / "CARD.md").write_text(card)
